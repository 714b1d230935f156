"""The node: holds a participant's keys and rows, and is where policy is enforced.

It dials out to the hub and believes nothing the hub says: every statement it acts on carries its
actor's signature, every key its party's, and every limit is checked against the node's own records.
"""
