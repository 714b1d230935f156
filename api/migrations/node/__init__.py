"""Revisions of the node's tables, oldest first: r0001, r0002, …"""
