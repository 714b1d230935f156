"""Revisions of the hub's tables, oldest first: r0001, r0002, …"""
