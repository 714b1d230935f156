"""The hidden join: an aggregate over common rows, where nobody learns which rows those are.

One module for each section of docs/hidden_join.md, in the order of the protocol:

    columns     which columns an answer needs, and who holds them
    keys        Keys: the function F, the shuffles, the tags
    padding     Padding: how many agreed and pool rows, and the gate's slack
    upload      Steps 1 to 3: rows, tags, shares
    matching    Step 4: pairs, in one random order
    check       Checks: headers, lists, the check column
    resharing   Re-sharing and inner products, zero shares
    opening     Noise, gate, opening
    protocol    the steps in order: `run`
"""
