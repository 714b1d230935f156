# pragma version 0.4.3
# @license Apache-2.0
"""
@title Register of rights in data
@notice
    Certificates of holding, processing, operating and other rights, what they derive from, who
    is licensed under them, and what is disputed. A right changes hands only by a registered act:
    wallets show it (ERC-721 reads, ERC-5192 locked) and cannot move it.
    The contract keeps the states; the evidence is in the log. Every act names the log entry
    that records it, by its leaf hash, and one entry makes one act. An act whose entry the log
    does not have, or has without the signatures that it needs, was not lawfully made.
    Nothing here is personal: whatever describes a person, an asset, a claim or terms is a hash
    over it and a salt that stays off the chain.
@dev
    Only a right in state CERTIFIED can be transferred, changed, licensed or derived from. The
    final states CANCELLED, REVOKED, EXPIRED and LAPSED have no way out. No function calls
    another contract.
"""

event Transfer:  # ERC-721
    sender: indexed(address)
    receiver: indexed(address)
    token_id: indexed(uint256)

event Locked:  # ERC-5192
    token_id: uint256

event RightRegistered:
    right_id: indexed(bytes32)
    asset: indexed(bytes32)
    holder: indexed(address)
    kind: bytes32
    parent: bytes32
    content_hash: bytes32
    valid_until: uint64
    notice_until: uint64

event RightCertified:
    right_id: indexed(bytes32)
    entry: bytes32

event RightTransferred:
    right_id: indexed(bytes32)
    previous: indexed(address)
    holder: indexed(address)
    entry: bytes32

event RightChanged:
    right_id: indexed(bytes32)
    previous_hash: bytes32
    content_hash: bytes32
    entry: bytes32

event RightRenewed:
    right_id: indexed(bytes32)
    valid_until: uint64
    entry: bytes32

event RightCancelled:
    right_id: indexed(bytes32)
    entry: bytes32

event RightRevoked:
    right_id: indexed(bytes32)
    dispute_id: indexed(bytes32)
    entry: bytes32

event DisputeOpened:
    right_id: indexed(bytes32)
    dispute_id: indexed(bytes32)
    claimant: bytes32
    evidence_hash: bytes32
    objection: bool

event DisputeRuled:
    right_id: indexed(bytes32)
    dispute_id: indexed(bytes32)
    upheld: bool
    ruling_hash: bytes32
    entry: bytes32

event LicenceGranted:
    right_id: indexed(bytes32)
    licence_id: indexed(bytes32)
    grantee: indexed(address)
    terms_hash: bytes32
    scope_hash: bytes32
    expires: uint64
    by: address

event LicenceRevoked:
    right_id: indexed(bytes32)
    licence_id: indexed(bytes32)
    entry: bytes32
    by: address

event ManagerSet:
    right_id: indexed(bytes32)
    manager: indexed(address)
    appointed: bool
    by: address

event KindSet:
    kind: indexed(bytes32)
    allowed: bool

event RegistrarSet:
    registrar: indexed(address)
    appointed: bool

event BaseUriSet:
    base_uri: String[128]

event AdministrationOffered:
    administrator: indexed(address)
    candidate: indexed(address)

event AdministrationAccepted:
    previous: indexed(address)
    administrator: indexed(address)

struct Right:
    asset: bytes32  # salted hash of what the right is in
    kind: bytes32  # one of the kinds the administrator allows
    holder: address
    parent: bytes32  # the right this one derives from; zero if none
    content_hash: bytes32  # salted hash of the certificate's content
    registrar: address  # who registered it, and so cannot certify it
    valid_until: uint64  # seconds; the right has expired from then on
    notice_until: uint64  # seconds; the end of the public notice
    notice_left: uint64  # seconds of notice that remain once no objection is open
    tenure: uint64  # how often it changed hands
    licences: uint64  # how many were ever granted under it
    open_disputes: uint32
    depth: uint8  # number of rights it derives from, one after the other
    status: uint8  # one of the stored states below

struct Licence:
    grantee: address
    terms_hash: bytes32  # salted hash of the agreement
    scope_hash: bytes32  # salted hash of what may be done
    expires: uint64  # seconds
    tenure: uint64  # of the right when the licence was granted
    revoked: bool

struct Dispute:
    right_id: bytes32
    claimant: bytes32  # salted hash of who claims
    evidence_hash: bytes32
    ruling_hash: bytes32  # zero while it is open
    objection: bool  # made during the public notice
    upheld: bool

# States as state() answers them. PUBLICISED, CERTIFIED, CANCELLED and REVOKED are stored; the
# others follow from time, from open disputes and from what the right derives from.
UNKNOWN: constant(uint8) = 0
PUBLICISED: constant(uint8) = 1
OBJECTED: constant(uint8) = 2
CERTIFIED: constant(uint8) = 3
DISPUTED: constant(uint8) = 4
CANCELLED: constant(uint8) = 5
REVOKED: constant(uint8) = 6
EXPIRED: constant(uint8) = 7
LAPSED: constant(uint8) = 8

# A right derives from at most so many others, one after the other: bounds every loop.
MAX_DEPTH: constant(uint8) = 16

name: public(constant(String[16])) = "Rights in data"
symbol: public(constant(String[8])) = "RIGHT"

# Appoints registrars, allows kinds. Is no registrar itself.
administrator: public(address)
candidate: public(address)
is_registrar: public(HashMap[address, bool])
is_kind: public(HashMap[bytes32, bool])
base_uri: public(String[128])
# The log entries that made an act of a registrar.
recorded: public(HashMap[bytes32, bool])
rights: HashMap[bytes32, Right]
licences: HashMap[bytes32, HashMap[bytes32, Licence]]
disputes: HashMap[bytes32, Dispute]
# The latest certificate of a holder, by asset and kind; it may have ended.
certificate_of: public(HashMap[bytes32, HashMap[bytes32, HashMap[address, bytes32]]])
# By right and tenure, so that a transfer wipes them.
managers: HashMap[bytes32, HashMap[uint64, HashMap[address, bool]]]
balances: HashMap[address, uint256]


@deploy
def __init__():
    self.administrator = msg.sender
    log AdministrationAccepted(previous=empty(address), administrator=msg.sender)


# ---- the five acts, and certification -----------------------------------------------------


@external
def register(
    right_id: bytes32,
    asset: bytes32,
    kind: bytes32,
    holder: address,
    parent: bytes32,
    content_hash: bytes32,
    valid_until: uint64,
    notice_until: uint64,
):
    """
    @notice Initial registration: the right is on public notice until certified.
    @param right_id Leaf hash of the log entry that registers it; the right's id from now on.
    @param parent A right in force that this one derives from, and cannot outlive; or zero.
    @param notice_until End of the public notice; a past time if it was given before.
    """
    self._act(right_id)
    assert asset != empty(bytes32) and content_hash != empty(bytes32), "hash is zero"
    assert self.is_kind[kind], "unknown kind"
    assert holder != empty(address), "holder is zero"
    assert convert(valid_until, uint256) > block.timestamp, "valid_until has passed"
    assert notice_until < valid_until, "notice outlasts the right"
    self._take_place(right_id, asset, kind, holder)
    depth: uint8 = 0
    if parent != empty(bytes32):
        self._require(parent, CERTIFIED, "parent is not in force")
        assert valid_until <= self.rights[parent].valid_until, "outlives its parent"
        assert self.rights[parent].depth < MAX_DEPTH, "derived too often"
        depth = self.rights[parent].depth + 1
    self.rights[right_id] = Right(
        asset=asset,
        kind=kind,
        holder=holder,
        parent=parent,
        content_hash=content_hash,
        registrar=msg.sender,
        valid_until=valid_until,
        notice_until=notice_until,
        notice_left=0,
        tenure=0,
        licences=0,
        open_disputes=0,
        depth=depth,
        status=PUBLICISED,
    )
    log RightRegistered(
        right_id=right_id,
        asset=asset,
        holder=holder,
        kind=kind,
        parent=parent,
        content_hash=content_hash,
        valid_until=valid_until,
        notice_until=notice_until,
    )


@external
def certify(entry: bytes32, right_id: bytes32):
    """
    @notice End of the initial registration. By another registrar than the one that registered
            the right, after the public notice and with no objection open.
    """
    self._act(entry)
    self._require(right_id, PUBLICISED, "not on public notice")
    right: Right = self.rights[right_id]
    assert block.timestamp >= convert(right.notice_until, uint256), "public notice has not ended"
    assert msg.sender != right.registrar, "registered by the same registrar"
    if right.parent != empty(bytes32):
        self._require(right.parent, CERTIFIED, "parent is not in force")
    self.rights[right_id].status = CERTIFIED
    self.balances[right.holder] += 1
    log RightCertified(right_id=right_id, entry=entry)
    log Transfer(sender=empty(address), receiver=right.holder, token_id=convert(right_id, uint256))
    log Locked(token_id=convert(right_id, uint256))


@external
def transfer(entry: bytes32, right_id: bytes32, holder: address, licences: uint64):
    """
    @notice Give the right another holder. Licences under it stay; its managers do not.
    @param licences How many were ever granted, as the new holder knows it: the old one must not
           be able to slip one in before the transfer.
    """
    self._act(entry)
    self._require(right_id, CERTIFIED, "right is not in force")
    assert holder != empty(address), "holder is zero"
    previous: address = self.rights[right_id].holder
    assert holder != previous, "is the holder"
    assert self.rights[right_id].licences == licences, "another number of licences"
    asset: bytes32 = self.rights[right_id].asset
    kind: bytes32 = self.rights[right_id].kind
    self._take_place(right_id, asset, kind, holder)
    self.certificate_of[asset][kind][previous] = empty(bytes32)
    self.rights[right_id].holder = holder
    self.rights[right_id].tenure += 1
    self.balances[previous] -= 1
    self.balances[holder] += 1
    log RightTransferred(right_id=right_id, previous=previous, holder=holder, entry=entry)
    log Transfer(sender=previous, receiver=holder, token_id=convert(right_id, uint256))


@external
def change(entry: bytes32, right_id: bytes32, content_hash: bytes32):
    """
    @notice Replace the certificate's content. Asset, kind, holder and term stay.
    """
    self._act(entry)
    self._require(right_id, CERTIFIED, "right is not in force")
    assert content_hash != empty(bytes32), "hash is zero"
    previous: bytes32 = self.rights[right_id].content_hash
    assert content_hash != previous, "content is the same"
    self.rights[right_id].content_hash = content_hash
    log RightChanged(
        right_id=right_id, previous_hash=previous, content_hash=content_hash, entry=entry
    )


@external
def cancel(entry: bytes32, right_id: bytes32):
    """
    @notice End the right, or withdraw its registration. Licences under it and rights derived
            from it end with it. Not while it is disputed.
    """
    self._act(entry)
    state: uint8 = self._state(right_id)
    assert state == CERTIFIED or state == PUBLICISED, "right is not in force"
    self._end(right_id, CANCELLED)
    log RightCancelled(right_id=right_id, entry=entry)


@external
def renew(entry: bytes32, right_id: bytes32, valid_until: uint64):
    """
    @notice Let the right last longer. Before it expires; also while it is disputed, since a
            dispute must not be won by delaying it.
    """
    self._act(entry)
    state: uint8 = self._state(right_id)
    assert state == CERTIFIED or state == DISPUTED, "right is not in force"
    assert valid_until > self.rights[right_id].valid_until, "term does not grow"
    parent: bytes32 = self.rights[right_id].parent
    if parent != empty(bytes32):
        assert valid_until <= self.rights[parent].valid_until, "outlives its parent"
    self.rights[right_id].valid_until = valid_until
    log RightRenewed(right_id=right_id, valid_until=valid_until, entry=entry)


# ---- objections and disputes ----------------------------------------------------------------


@external
def dispute(dispute_id: bytes32, right_id: bytes32, claimant: bytes32, evidence_hash: bytes32):
    """
    @notice Record a claim against a right: an objection during its public notice, whose clock
            stops meanwhile, and a dispute afterwards.
    @param dispute_id Leaf hash of the log entry that records the claim.
    """
    self._act(dispute_id)
    assert claimant != empty(bytes32) and evidence_hash != empty(bytes32), "hash is zero"
    self._require_living(right_id)
    objection: bool = self.rights[right_id].status == PUBLICISED
    if objection and self.rights[right_id].open_disputes == 0:
        notice_until: uint64 = self.rights[right_id].notice_until
        assert block.timestamp < convert(notice_until, uint256), "public notice has ended"
        self.rights[right_id].notice_left = convert(
            convert(notice_until, uint256) - block.timestamp, uint64
        )
    self.rights[right_id].open_disputes += 1
    self.disputes[dispute_id] = Dispute(
        right_id=right_id,
        claimant=claimant,
        evidence_hash=evidence_hash,
        ruling_hash=empty(bytes32),
        objection=objection,
        upheld=False,
    )
    log DisputeOpened(
        right_id=right_id,
        dispute_id=dispute_id,
        claimant=claimant,
        evidence_hash=evidence_hash,
        objection=objection,
    )


@external
def rule(entry: bytes32, dispute_id: bytes32, upheld: bool, ruling_hash: bytes32):
    """
    @notice Decide a claim. If it is upheld the right is revoked; if not, and no other claim is
            open, the right goes on where it stopped.
    """
    self._act(entry)
    right_id: bytes32 = self.disputes[dispute_id].right_id
    assert right_id != empty(bytes32), "unknown dispute"
    assert self.disputes[dispute_id].ruling_hash == empty(bytes32), "ruled already"
    assert ruling_hash != empty(bytes32), "hash is zero"
    self.disputes[dispute_id].ruling_hash = ruling_hash
    self.disputes[dispute_id].upheld = upheld
    self.rights[right_id].open_disputes -= 1
    log DisputeRuled(
        right_id=right_id,
        dispute_id=dispute_id,
        upheld=upheld,
        ruling_hash=ruling_hash,
        entry=entry,
    )
    status: uint8 = self.rights[right_id].status
    if upheld and (status == PUBLICISED or status == CERTIFIED):
        self._end(right_id, REVOKED)
        log RightRevoked(right_id=right_id, dispute_id=dispute_id, entry=entry)
    elif status == PUBLICISED and self.rights[right_id].open_disputes == 0:
        resumed: uint256 = block.timestamp + convert(self.rights[right_id].notice_left, uint256)
        term: uint256 = convert(self.rights[right_id].valid_until, uint256)
        self.rights[right_id].notice_until = convert(min(resumed, term), uint64)
        self.rights[right_id].notice_left = 0


# ---- licences and managers ------------------------------------------------------------------


@external
def license(
    licence_id: bytes32,
    right_id: bytes32,
    grantee: address,
    terms_hash: bytes32,
    scope_hash: bytes32,
    expires: uint64,
):
    """
    @notice License a right. By its holder, one of its managers, or a registrar for them.
    @dev Licences are found by right and id, not by id alone: otherwise anyone who holds some
         right could occupy the id of somebody else's licence before it is recorded.
    @param licence_id Leaf hash of the log entry of the agreement.
    """
    self._for_holder(right_id)
    self._require(right_id, CERTIFIED, "right is not in force")
    assert licence_id != empty(bytes32), "entry is zero"
    assert self.licences[right_id][licence_id].grantee == empty(address), "entry recorded already"
    assert grantee != empty(address), "grantee is zero"
    assert terms_hash != empty(bytes32) and scope_hash != empty(bytes32), "hash is zero"
    assert convert(expires, uint256) > block.timestamp, "expires has passed"
    assert expires <= self.rights[right_id].valid_until, "outlives the right"
    self.licences[right_id][licence_id] = Licence(
        grantee=grantee,
        terms_hash=terms_hash,
        scope_hash=scope_hash,
        expires=expires,
        tenure=self.rights[right_id].tenure,
        revoked=False,
    )
    self.rights[right_id].licences += 1
    log LicenceGranted(
        right_id=right_id,
        licence_id=licence_id,
        grantee=grantee,
        terms_hash=terms_hash,
        scope_hash=scope_hash,
        expires=expires,
        by=msg.sender,
    )


@external
def revoke(entry: bytes32, right_id: bytes32, licence_id: bytes32):
    """
    @notice End a licence early. One that an earlier holder granted is ended by a registrar
            only: licences survive a transfer.
    """
    self._for_holder(right_id)
    assert entry != empty(bytes32), "entry is zero"
    assert self.licences[right_id][licence_id].grantee != empty(address), "unknown licence"
    assert not self.licences[right_id][licence_id].revoked, "revoked already"
    if self.licences[right_id][licence_id].tenure != self.rights[right_id].tenure:
        assert self.is_registrar[msg.sender], "granted by an earlier holder"
    self.licences[right_id][licence_id].revoked = True
    log LicenceRevoked(right_id=right_id, licence_id=licence_id, entry=entry, by=msg.sender)


@external
def set_manager(right_id: bytes32, manager: address, appointed: bool):
    """
    @notice Let somebody license for the holder, until the right changes hands, or no more. By
            the holder or a registrar for it; managers appoint nobody.
    """
    assert self._acts_as_holder(right_id, msg.sender), "neither the holder nor a registrar"
    self._require_living(right_id)
    assert manager != empty(address), "manager is zero"
    tenure: uint64 = self.rights[right_id].tenure
    assert self.managers[right_id][tenure][manager] != appointed, "is so already"
    self.managers[right_id][tenure][manager] = appointed
    log ManagerSet(right_id=right_id, manager=manager, appointed=appointed, by=msg.sender)


# ---- administration -------------------------------------------------------------------------


@external
def set_registrar(registrar: address, appointed: bool):
    """
    @notice Appoint or dismiss a registrar. The administrator cannot be one.
    """
    self._only_administrator()
    assert registrar != empty(address), "registrar is zero"
    assert registrar != self.administrator, "the administrator is no registrar"
    assert self.is_registrar[registrar] != appointed, "is so already"
    self.is_registrar[registrar] = appointed
    log RegistrarSet(registrar=registrar, appointed=appointed)


@external
def set_kind(kind: bytes32, allowed: bool):
    """
    @notice Allow a kind of right, or no more. Rights of that kind stay what they are.
    @param kind ASCII name, filled with zeros on the right, such as "holding".
    """
    self._only_administrator()
    assert kind != empty(bytes32), "kind is zero"
    assert self.is_kind[kind] != allowed, "is so already"
    self.is_kind[kind] = allowed
    log KindSet(kind=kind, allowed=allowed)


@external
def set_base_uri(base_uri: String[128]):
    """
    @notice Where wallets find a description. It binds nobody: content_hash does.
    """
    self._only_administrator()
    self.base_uri = base_uri
    log BaseUriSet(base_uri=base_uri)


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
    @notice Become the administrator. Only whom the present one named last, and no registrar.
    """
    assert msg.sender == self.candidate, "not offered to the sender"
    assert not self.is_registrar[msg.sender], "the administrator is no registrar"
    previous: address = self.administrator
    self.administrator = msg.sender
    self.candidate = empty(address)
    log AdministrationAccepted(previous=previous, administrator=msg.sender)


# ---- reads ----------------------------------------------------------------------------------


@external
@view
def right_of(right_id: bytes32) -> Right:
    """
    @return All fields as stored; zeros if there is no such right.
    """
    return self.rights[right_id]


@external
@view
def licence_of(right_id: bytes32, licence_id: bytes32) -> Licence:
    """
    @return All fields as stored; zeros if there is no such licence.
    """
    return self.licences[right_id][licence_id]


@external
@view
def dispute_of(dispute_id: bytes32) -> Dispute:
    """
    @return All fields as stored; zeros if there is no such dispute.
    """
    return self.disputes[dispute_id]


@external
@view
def state(right_id: bytes32) -> uint8:
    """
    @return 0 unknown, 1 publicised, 2 objected, 3 certified, 4 disputed, 5 cancelled,
            6 revoked, 7 expired, 8 lapsed: a right that it derives from has ended.
    """
    return self._state(right_id)


@external
@view
def is_licensed(right_id: bytes32, licence_id: bytes32) -> bool:
    """
    @notice Whether the licence is in force now. A dispute alone does not suspend it.
    """
    if self.licences[right_id][licence_id].grantee == empty(address):
        return False
    if self.licences[right_id][licence_id].revoked:
        return False
    if block.timestamp >= convert(self.licences[right_id][licence_id].expires, uint256):
        return False
    state: uint8 = self._state(right_id)
    return state == CERTIFIED or state == DISPUTED


@external
@view
def is_manager(right_id: bytes32, who: address) -> bool:
    return self.managers[right_id][self.rights[right_id].tenure][who]


# ---- ERC-721 and ERC-5192: reads, and refusals ----------------------------------------------


@external
@view
def supportsInterface(interface_id: bytes4) -> bool:
    """
    @return True for ERC-165, ERC-721, its metadata extension and ERC-5192.
    """
    return interface_id in [0x01ffc9a7, 0x80ac58cd, 0x5b5e139f, 0xb45a3c0e]


@external
@view
def ownerOf(token_id: uint256) -> address:
    """
    @notice The holder of a certificate that was neither cancelled nor revoked. Whether it is
            in force, state() says: an expired certificate is still somebody's.
    """
    return self._holder_of_token(token_id)


@external
@view
def balanceOf(owner: address) -> uint256:
    assert owner != empty(address), "zero address"
    return self.balances[owner]


@external
@view
def tokenURI(token_id: uint256) -> String[206]:
    self._holder_of_token(token_id)
    return concat(self.base_uri, uint2str(token_id))


@external
@view
def locked(token_id: uint256) -> bool:
    """
    @return Always true: no token can be moved by its owner.
    """
    self._holder_of_token(token_id)
    return True


@external
@view
def getApproved(token_id: uint256) -> address:
    self._holder_of_token(token_id)
    return empty(address)


@external
@view
def isApprovedForAll(owner: address, operator: address) -> bool:
    return False


@external
def approve(to: address, token_id: uint256):
    raise "moves by a registered act only"


@external
def setApprovalForAll(operator: address, approved: bool):
    raise "moves by a registered act only"


@external
def transferFrom(owner: address, to: address, token_id: uint256):
    raise "moves by a registered act only"


@external
def safeTransferFrom(owner: address, to: address, token_id: uint256, data: Bytes[1024] = b""):
    raise "moves by a registered act only"


# ---- inside ---------------------------------------------------------------------------------


@internal
@view
def _only_administrator():
    assert msg.sender == self.administrator, "not the administrator"


@internal
def _act(entry: bytes32):
    """
    @dev A registrar's act, once: sent again after a reorganisation or a restart it does nothing.
    """
    assert self.is_registrar[msg.sender], "not a registrar"
    assert entry != empty(bytes32), "entry is zero"
    assert not self.recorded[entry], "entry recorded already"
    self.recorded[entry] = True


@internal
@view
def _acts_as_holder(right_id: bytes32, who: address) -> bool:
    # A right that does not exist is held by the zero address, which sends nothing.
    return who == self.rights[right_id].holder or self.is_registrar[who]


@internal
@view
def _for_holder(right_id: bytes32):
    if not self._acts_as_holder(right_id, msg.sender):
        tenure: uint64 = self.rights[right_id].tenure
        assert self.managers[right_id][tenure][msg.sender], "may not license this right"


@internal
@view
def _require(right_id: bytes32, state: uint8, reason: String[32]):
    assert self._state(right_id) == state, reason


@internal
@view
def _require_living(right_id: bytes32):
    state: uint8 = self._state(right_id)
    assert state >= PUBLICISED and state <= DISPUTED, "right is not in force"


@internal
def _take_place(right_id: bytes32, asset: bytes32, kind: bytes32, holder: address):
    """
    @dev One certificate in force per asset, kind and holder; and none anew while the last one
         is disputed, even if it has expired meanwhile.
    """
    last: bytes32 = self.certificate_of[asset][kind][holder]
    present: uint8 = self._state(last)
    assert present == UNKNOWN or present > DISPUTED, "holder has such a right"
    assert self.rights[last].open_disputes == 0, "the last such right is disputed"
    self.certificate_of[asset][kind][holder] = right_id


@internal
def _end(right_id: bytes32, status: uint8):
    if self.rights[right_id].status == CERTIFIED:
        holder: address = self.rights[right_id].holder
        self.balances[holder] -= 1
        log Transfer(
            sender=holder, receiver=empty(address), token_id=convert(right_id, uint256)
        )
    self.rights[right_id].status = status


@internal
@view
def _holder_of_token(token_id: uint256) -> address:
    right_id: bytes32 = convert(token_id, bytes32)
    assert self.rights[right_id].status == CERTIFIED, "no such token"
    return self.rights[right_id].holder


@internal
@view
def _state(right_id: bytes32) -> uint8:
    status: uint8 = self.rights[right_id].status
    if status != PUBLICISED and status != CERTIFIED:
        return status
    if block.timestamp >= convert(self.rights[right_id].valid_until, uint256):
        return EXPIRED
    disputed: bool = self.rights[right_id].open_disputes > 0
    ancestor: bytes32 = self.rights[right_id].parent
    for _: uint8 in range(MAX_DEPTH):
        if ancestor == empty(bytes32):
            break
        # It lasts at least as long as what derives from it, so only an end before its time.
        if self.rights[ancestor].status != CERTIFIED:
            return LAPSED
        if status == CERTIFIED and self.rights[ancestor].open_disputes > 0:
            disputed = True
        ancestor = self.rights[ancestor].parent
    if not disputed:
        return status
    if status == PUBLICISED:
        return OBJECTED
    return DISPUTED
