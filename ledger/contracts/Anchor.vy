# pragma version 0.4.3
# @license Apache-2.0
"""
@title Heads of transparency logs, each shown to extend the one before
@notice
    The contract is one more witness of a log: it takes a new head only with an RFC 6962
    consistency proof from the head it holds, which it checks itself. Whoever holds the
    anchoring key can therefore add to a log's history, and never replace it.
    A log is named by the SHA-256 of its origin. No code can be exchanged: a log leaves this
    contract by a hand-over that everyone sees, and enters its successor with its last head.
    Nobody anchors before the administrator has said how the log begins here: anew, or where
    its predecessor ended. So the anchoring key cannot use a hand-over to replace history.
@dev
    Trees, proofs and sizes are those of RFC 6962 and RFC 9162 with SHA-256, computed by the
    precompiled contract at address 2. What is accepted is exactly what
    ledger/verify/merkle.py accepts.
"""

interface Anchoring:
    def head(log_id: bytes32) -> (uint64, bytes32, uint256): view
    def successor(log_id: bytes32) -> address: view
    def begun(log_id: bytes32) -> bool: view

event Begun:
    log_id: indexed(bytes32)

event Anchored:
    log_id: indexed(bytes32)
    size: indexed(uint64)
    root: bytes32
    previous_size: uint64

event HandedOver:
    log_id: indexed(bytes32)
    successor: address

event TakenOver:
    log_id: indexed(bytes32)
    predecessor: indexed(address)
    size: uint64
    root: bytes32

event Granted:
    log_id: indexed(bytes32)
    who: indexed(address)

event Revoked:
    log_id: indexed(bytes32)
    who: indexed(address)

event AdministrationOffered:
    administrator: indexed(address)
    candidate: indexed(address)

event AdministrationAccepted:
    previous: indexed(address)
    administrator: indexed(address)

struct Head:
    size: uint64
    block_number: uint256

# C2SP tlog-cosignature: a tree has fewer than 2**63 leaves.
MAX_SIZE: constant(uint64) = 2**63 - 1
# C2SP tlog-witness: a consistency proof has at most 63 hashes, enough up to 2**62 entries.
MAX_PROOF: constant(uint256) = 63
# SHA-256 of the byte 1 and 64 zero bytes: an inner node over two zero hashes.
NODE_OF_ZEROS: constant(bytes32) = 0xae0798d0ecaed2b778eddebf18f071a561c53658c05e76cedecc27cafbdbc577

# Grants and revokes anchorers, hands logs over. Cannot anchor unless it grants itself the role,
# which is seen.
administrator: public(address)
# Who was offered the administration and has not accepted it yet; zero if nobody.
candidate: public(address)
# The addresses that may anchor a log.
is_anchorer: public(HashMap[bytes32, HashMap[address, bool]])
# Whether it was said how a log begins here, by `begin` or by `take_over`.
begun: public(HashMap[bytes32, bool])
# The contract that a log was handed over to; zero while it is anchored here.
successor: public(HashMap[bytes32, address])
# The contract whose last head of a log this one continues; zero if the log began here.
predecessor: public(HashMap[bytes32, address])
# Every root anchored here, by log and size; zero if none.
root_at: public(HashMap[bytes32, HashMap[uint64, bytes32]])
latest: HashMap[bytes32, Head]


@deploy
def __init__():
    # A chain without this precompiled contract would answer with whatever memory held.
    assert self._node(empty(bytes32), empty(bytes32)) == NODE_OF_ZEROS, "no SHA-256 on this chain"
    self.administrator = msg.sender
    log AdministrationAccepted(previous=empty(address), administrator=msg.sender)


@external
def anchor(log_id: bytes32, size: uint64, root: bytes32, proof: DynArray[bytes32, MAX_PROOF]):
    """
    @notice Store the head of a larger tree. Only an anchorer of the log.
    @param log_id SHA-256 of the log's origin.
    @param size Leaves of the new tree; more than those of the last one anchored.
    @param root Root of the new tree.
    @param proof RFC 6962 consistency proof from the last head; empty for the first.
    """
    assert self.is_anchorer[log_id][msg.sender], "not an anchorer of this log"
    assert self.successor[log_id] == empty(address), "handed over"
    previous: uint64 = self.latest[log_id].size
    assert size > previous, "size must grow"
    assert size <= MAX_SIZE, "size too large"
    # Zero is what root_at answers for a size that was never anchored.
    assert root != empty(bytes32), "root is zero"
    if previous == 0:
        assert len(proof) == 0, "the first head has no proof"
    else:
        assert self._consistent(previous, self.root_at[log_id][previous], size, root, proof), "not consistent"
    self._store(log_id, size, root)
    log Anchored(log_id=log_id, size=size, root=root, previous_size=previous)


@external
@view
def head(log_id: bytes32) -> (uint64, bytes32, uint256):
    """
    @return size, root and block number of the last head; zeros if there is none.
    """
    latest: Head = self.latest[log_id]
    return latest.size, self.root_at[log_id][latest.size], latest.block_number


@external
@view
def verify_consistency(
    old_size: uint64,
    old_root: bytes32,
    new_size: uint64,
    new_root: bytes32,
    proof: DynArray[bytes32, MAX_PROOF],
) -> bool:
    """
    @notice Whether the new tree begins with the whole old tree. Never from size 0.
    """
    return self._consistent(old_size, old_root, new_size, new_root, proof)


@external
@view
def verify_inclusion(
    leaf_hash: bytes32,
    index: uint64,
    size: uint64,
    root: bytes32,
    proof: DynArray[bytes32, MAX_PROOF],
) -> bool:
    """
    @notice Whether the leaf is at `index` of the tree. The root is the caller's: compare it
            with root_at.
    @param leaf_hash SHA-256 of the byte 0 and the entry.
    @param proof From the leaf's sibling up to the child of the root.
    """
    if index >= size or size > MAX_SIZE:
        return False
    number: uint256 = convert(index, uint256)
    last: uint256 = convert(size - 1, uint256)
    computed: bytes32 = leaf_hash
    for sibling: bytes32 in proof:
        if last == 0:
            return False  # more hashes than levels
        if number & 1 == 1 or number == last:
            computed = self._node(sibling, computed)
            number, last = self._skip(number, last)
        else:
            computed = self._node(computed, sibling)
        number = number >> 1
        last = last >> 1
    return last == 0 and computed == root


@external
def begin(log_id: bytes32):
    """
    @notice Begin a log here, with whatever head an anchorer sends first. Only the administrator.
            A log that another contract anchored is taken over instead.
    """
    self._only_administrator()
    assert not self.begun[log_id], "begun"
    self.begun[log_id] = True
    log Begun(log_id=log_id)


@external
def grant(log_id: bytes32, who: address):
    """
    @notice Let an address anchor a log that was begun or taken over. Only the administrator.
    """
    self._only_administrator()
    assert self.begun[log_id], "not begun"
    assert who != empty(address), "zero address"
    assert not self.is_anchorer[log_id][who], "is an anchorer"
    self.is_anchorer[log_id][who] = True
    log Granted(log_id=log_id, who=who)


@external
def revoke(log_id: bytes32, who: address):
    """
    @notice Take the role away. Only the administrator.
    """
    self._only_administrator()
    assert self.is_anchorer[log_id][who], "not an anchorer"
    self.is_anchorer[log_id][who] = False
    log Revoked(log_id=log_id, who=who)


@external
def hand_over(log_id: bytes32, successor: address):
    """
    @notice End anchoring of a log here, for good. Only the administrator: a stolen anchoring
            key must not be able to send auditors elsewhere.
    @param successor The contract that continues the log.
    """
    self._only_administrator()
    assert self.successor[log_id] == empty(address), "handed over"
    assert self.latest[log_id].size != 0, "no head"
    assert successor != self and successor.is_contract, "successor is not another contract"
    # A mistake here could not be mended: the successor must be able to take the log over.
    assert staticcall Anchoring(successor).successor(log_id) == empty(address), "successor handed it over"
    assert not staticcall Anchoring(successor).begun(log_id), "successor has begun it"
    self.successor[log_id] = successor
    log HandedOver(log_id=log_id, successor=successor)


@external
def take_over(log_id: bytes32, predecessor: address):
    """
    @notice Continue a log that another contract handed over to this one, from its last head: a
            hand-over is no occasion to rewrite history. Only the administrator.
    """
    self._only_administrator()
    assert not self.begun[log_id], "begun"
    assert predecessor != self, "predecessor is this contract"
    assert staticcall Anchoring(predecessor).successor(log_id) == self, "not handed over to this contract"
    size: uint64 = 0
    root: bytes32 = empty(bytes32)
    block_number: uint256 = 0
    size, root, block_number = staticcall Anchoring(predecessor).head(log_id)
    assert size != 0 and size <= MAX_SIZE and root != empty(bytes32), "predecessor has no head"
    self.begun[log_id] = True
    self.predecessor[log_id] = predecessor
    self._store(log_id, size, root)
    log TakenOver(log_id=log_id, predecessor=predecessor, size=size, root=root)


@external
def offer_administration(candidate: address):
    """
    @notice Name the next administrator; the zero address withdraws the offer. Nothing changes
            until the candidate accepts, so that a mistyped address loses nothing.
    """
    self._only_administrator()
    self.candidate = candidate
    log AdministrationOffered(administrator=msg.sender, candidate=candidate)


@external
def accept_administration():
    """
    @notice Become the administrator. Only whom the present one named last.
    """
    assert msg.sender == self.candidate, "not offered to the sender"
    previous: address = self.administrator
    self.administrator = msg.sender
    self.candidate = empty(address)
    log AdministrationAccepted(previous=previous, administrator=msg.sender)


@internal
@view
def _only_administrator():
    assert msg.sender == self.administrator, "not the administrator"


@internal
def _store(log_id: bytes32, size: uint64, root: bytes32):
    self.latest[log_id] = Head(size=size, block_number=block.number)
    self.root_at[log_id][size] = root


@internal
@view
def _consistent(
    old_size: uint64,
    old_root: bytes32,
    new_size: uint64,
    new_root: bytes32,
    proof: DynArray[bytes32, MAX_PROOF],
) -> bool:
    """
    @dev RFC 9162 section 2.1.4.2. Every proof has one accepted form: one hash too many or too
         few is refused.
    """
    if old_size == 0 or old_size > new_size or new_size > MAX_SIZE:
        return False
    if old_size == new_size:
        return len(proof) == 0 and old_root == new_root
    if len(proof) == 0:
        return False
    number: uint256 = convert(old_size - 1, uint256)
    last: uint256 = convert(new_size - 1, uint256)
    for level: uint256 in range(63):
        if number & 1 == 0:
            break
        number = number >> 1
        last = last >> 1
    # A complete old tree is itself the first node of the path, and the proof leaves it out.
    complete: bool = old_size & (old_size - 1) == 0
    old_computed: bytes32 = old_root
    if not complete:
        old_computed = proof[0]
    new_computed: bytes32 = old_computed
    first: bool = not complete
    for sibling: bytes32 in proof:
        if first:
            first = False
            continue
        if last == 0:
            return False  # more hashes than levels
        if number & 1 == 1 or number == last:
            old_computed = self._node(sibling, old_computed)
            new_computed = self._node(sibling, new_computed)
            number, last = self._skip(number, last)
        else:
            new_computed = self._node(new_computed, sibling)
        number = number >> 1
        last = last >> 1
    return last == 0 and old_computed == old_root and new_computed == new_root


@internal
@pure
def _skip(number: uint256, last: uint256) -> (uint256, uint256):
    """
    @dev Past the levels at which the rightmost node has no sibling.
    """
    n: uint256 = number
    l: uint256 = last
    for level: uint256 in range(63):
        if n == 0 or n & 1 == 1:
            break
        n = n >> 1
        l = l >> 1
    return n, l


@internal
@pure
def _node(left: bytes32, right: bytes32) -> bytes32:
    return sha256(concat(0x01, left, right))
