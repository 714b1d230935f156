"""Sockets between the threads of one test."""

from __future__ import annotations

import socket
from itertools import combinations


def socket_pairs(parties: int) -> dict[int, dict[int, socket.socket]]:
    """For each party its sockets to the others, by rank."""
    found: dict[int, dict[int, socket.socket]] = {rank: {} for rank in range(parties)}
    for low, high in combinations(range(parties), 2):
        found[low][high], found[high][low] = socket.socketpair()
    return found
