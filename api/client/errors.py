"""Every error of this package is an ApiError.

ApiError
├── Refused          fix the request, or ask for other terms; `code` says which
├── Unauthorised     check the key, the clock, and that the party is registered
├── NotFoundError    there is no such thing
├── Conflict         read again: something changed in between
├── UpgradeNeeded    upgrade this program, or tell the operator to upgrade the hub
├── TryLater         the hub cannot do it now
├── HubFailed        tell the operator the trace id
└── Unreachable      check the address, the proxy and the certificate authority
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class ApiError(Exception):
    """An answer that is not a success, from its problem document (RFC 9457).

    status: of HTTP; 0 when there was no answer
    errors: per fault `detail` and `pointer` or `parameter`, as the hub wrote them
    members: the problem's members of its own kind, such as `expected_seq`
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int = 0,
        trace_id: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.trace_id = trace_id
        self.errors = tuple(errors)
        self.members = dict(members or {})


class Refused(ApiError):
    """The hub understood and says no."""


class Unauthorised(ApiError):
    """The hub does not take this request as ours."""


class NotFoundError(ApiError):
    """There is nothing under this address or identifier."""


class Conflict(ApiError):
    """The thing is not in the state that the request supposed."""


class UpgradeNeeded(ApiError):
    """The two sides speak different versions of the protocol; `detail` says who is too old."""


class TryLater(ApiError):
    """Busy, starting, stopping or limited. retry_after_s: what the hub asked for, if it did."""

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int = 0,
        trace_id: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        members: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(
            detail, code=code, status=status, trace_id=trace_id, errors=errors, members=members
        )
        self.retry_after_s = retry_after_s


class HubFailed(ApiError):
    """The hub broke on this request."""


class Unreachable(ApiError):
    """No answer, or none from a hub. For all we know, the request was carried out."""
