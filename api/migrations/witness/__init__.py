"""Revisions of the witness's tables, oldest first: r0001, r0002, …"""
