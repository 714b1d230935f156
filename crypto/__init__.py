"""Canonical bytes, identifiers, keys, signatures, sealing and joins. Imports nothing of ours."""
