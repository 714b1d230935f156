"""The hub: takes in signed acts, keeps their order, reserves, coordinates, settles.

It handles metadata, money and evidence, never rows and never results. Everything it does with an
act happens in one transaction: the act's effect, its ledger entry and the messages to others.
"""
