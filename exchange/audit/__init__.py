"""The audit of a deal: what its bundle proves, from keys that the auditor brings along.

Nothing here asks the hub, and nothing needs more installed than `cryptography`.
"""
