"""Privacy accounts: what all consumers together have spent of a data product's epsilon and delta.

One account per product, because consumers may pool what they learn. It keeps four exact sums and
nothing else; what they amount to follows from the sums and from the totals in the product's newest
rule. A new version of a product does not refill its account; a holder that raises the totals does
so in a signed listing that everybody sees.

Composition. With probability at least 1 - delta over all noise of all jobs, the privacy loss of
one person against everybody together is at most

    epsilon of padding and of Laplace noise
    + the smaller of  the epsilons of Gaussian noise
                and   alpha * rho + ln(1/delta') / (alpha - 1)

- Padding and Laplace noise add up (basic composition, Dwork and Roth 2014, theorem 3.16), also
  where later jobs and their epsilons depend on earlier answers (Rogers et al. 2016, theorem 3.6).
- Gaussian noise adds up either way. The second is zero-concentrated privacy (Bun and Steinke 2016,
  lemma 2.3 and proposition 1.3) read at one order alpha, fixed for the account beforehand. The
  order that suits the sum best at each moment would give the usual rho + 2*sqrt(rho*ln(1/delta')),
  but a consumer that chooses its next job by the answers so far could wait for a moment at which
  its loss exceeds that: such moments come more often than delta' says. At one order the loss stays
  below the line at all moments together (Ville's inequality; Feldman and Zrnic 2021; Whitehouse et
  al. 2023, theorem 1). alpha is best for an account that is spent on Gaussian noise alone: there
  the line touches the usual curve.
- Delta pays for everything: the delta that each plan states (its padding's, its gate's, that of its
  Gaussian epsilon) is added up; and delta', one eighth of the total, is set aside whenever Gaussian
  noise has been charged, because which of both bounds holds is decided by the answers as well.

Numbers are exact fractions. A plan's are rounded up to a fixed unit, so that no choice of
denominators makes an account grow; everything irrational above is rounded up once per account.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final

from crypto.errors import Malformed
from crypto.identifiers import ProductId
from crypto.noise import gaussian_rho, rounded_up
from exchange.errors import BudgetExhausted
from exchange.query.plan import Plan, Query
from registry.product import DataProduct

# Which denominators are kept exactly: divisors of 232,792,560 (all of 1 to 20) with twelve places.
UNITS: Final = 232_792_560 * 10**12
DELTA_UNITS: Final = 10**30
CONVERSION: Final = Fraction(1, 8)  # delta' as a share of the total
NONE: Final = Fraction(0)
_DIGITS: Final = 60


@dataclass(frozen=True)
class PrivacyCost:
    """What a job costs each of its products; also the sum over an account's jobs.

    epsilon:  of padding and Laplace noise
    gaussian: epsilon of Gaussian noise, as the plans state it
    rho:      of the same Gaussian noise, in zero-concentrated privacy
    delta:    everything that the plans state
    """

    epsilon: Fraction
    gaussian: Fraction
    rho: Fraction
    delta: Fraction

    def __post_init__(self) -> None:
        if min(self.epsilon, self.gaussian, self.rho, self.delta) < 0:
            raise Malformed("privacy", "is below nothing: more was returned than reserved")

    def __add__(self, other: PrivacyCost) -> PrivacyCost:
        return PrivacyCost(
            self.epsilon + other.epsilon,
            self.gaussian + other.gaussian,
            self.rho + other.rho,
            self.delta + other.delta,
        )

    def __str__(self) -> str:
        return f"{self.epsilon} + {self.gaussian} (rho {self.rho}), delta {self.delta}"

    def within(self, other: PrivacyCost) -> bool:
        """Whether each sum is at most the other's."""
        return (
            self.epsilon <= other.epsilon
            and self.gaussian <= other.gaussian
            and self.rho <= other.rho
            and self.delta <= other.delta
        )

    def __sub__(self, other: PrivacyCost) -> PrivacyCost:
        """Raises Malformed where less than nothing would be left."""
        return PrivacyCost(
            self.epsilon - other.epsilon,
            self.gaussian - other.gaussian,
            self.rho - other.rho,
            self.delta - other.delta,
        )


NOTHING: Final = PrivacyCost(NONE, NONE, NONE, NONE)


def cost_of(plan: Plan) -> PrivacyCost:
    """What a plan costs each of its products, rounded up. `rules.violations` has shown that its
    noise is worth what it states. Scores and lookups release nothing of a product's rows in common
    and cost nothing here."""
    work = plan.work
    if not isinstance(work, Query):
        return NOTHING
    epsilon = delta = gaussian = rho = NONE
    if work.padding is not None:
        epsilon, delta = epsilon + work.padding.epsilon, delta + work.padding.delta
    if work.noise is not None:
        delta += work.noise.delta
        if work.noise.rho is None:
            epsilon += work.noise.epsilon
        else:
            gaussian, rho = work.noise.epsilon, work.noise.rho
    return PrivacyCost(
        _up(epsilon, UNITS), _up(gaussian, UNITS), _up(rho, UNITS), _up(delta, DELTA_UNITS)
    )


@dataclass(frozen=True)
class PrivacyAccount:
    """A product's account under the totals of its newest version."""

    product: ProductId
    epsilon_total: Fraction
    delta_total: Fraction
    spent: PrivacyCost

    @property
    def epsilon_spent(self) -> Fraction:
        spent = self.spent
        if not spent.gaussian:
            return spent.epsilon
        line = _line(self.epsilon_total, self.delta_total)
        together = spent.gaussian if line is None else min(spent.gaussian, line.at(spent.rho))
        return spent.epsilon + together

    @property
    def delta_spent(self) -> Fraction:
        return self.spent.delta + (CONVERSION * self.delta_total if self.spent.gaussian else 0)

    @property
    def epsilon_left(self) -> Fraction:
        """Below 0 where a newer version lowered the total."""
        return self.epsilon_total - self.epsilon_spent

    @property
    def delta_left(self) -> Fraction:
        return self.delta_total - self.delta_spent


def account_of(product: DataProduct, spent: PrivacyCost) -> PrivacyAccount:
    """product: its newest version. One without a privacy rule has nothing to spend."""
    rule = product.rule.privacy
    if rule is None:
        return PrivacyAccount(product.id, NONE, NONE, spent)
    return PrivacyAccount(product.id, rule.epsilon_total, rule.delta_total, spent)


def reserve(account: PrivacyAccount, cost: PrivacyCost) -> PrivacyAccount:
    """Set `cost` aside before any data is touched. Raises BudgetExhausted.

    A cost of nothing is always granted, also from an account that a lower total has overdrawn.
    """
    if cost == NOTHING:
        return account
    after = replace(account, spent=account.spent + cost)
    for name, asked, left, remains in (
        (
            "epsilon",
            after.epsilon_spent - account.epsilon_spent,
            account.epsilon_left,
            after.epsilon_left,
        ),
        ("delta", after.delta_spent - account.delta_spent, account.delta_left, after.delta_left),
    ):
        if remains < 0:
            raise BudgetExhausted(account.product, name, asked=asked, left=left)
    return after


def give_back(account: PrivacyAccount, cost: PrivacyCost) -> PrivacyAccount:
    """Undo one `reserve` of a job of which no message has left; the caller has made sure of that.
    Raises Malformed where so much was never reserved."""
    return replace(account, spent=account.spent - cost)


@dataclass(frozen=True)
class _Line:
    """epsilon at one order: alpha * rho + offset."""

    alpha: Fraction
    offset: Fraction

    def at(self, rho: Fraction) -> Fraction:
        return self.alpha * rho + self.offset


@lru_cache(maxsize=1024)
def _line(epsilon_total: Fraction, delta_total: Fraction) -> _Line | None:
    """The order at which the most Gaussian noise fits into the totals; None where none does.

    alpha = 1 + sqrt(ln(1/delta') / rho*), rho* = the most rho within epsilon_total at delta'.
    Any order above 1 would be right, so alpha is rounded first and the offset belongs to it.
    """
    conversion = CONVERSION * delta_total
    most = gaussian_rho(epsilon_total, conversion) if conversion else NONE
    if not most:
        return None
    with localcontext() as context:
        context.prec = _DIGITS
        tail = -_decimal(conversion).ln()
        alpha = 1 + rounded_up((tail / _decimal(most)).sqrt())
        offset = rounded_up(tail / _decimal(alpha - 1))
    return _Line(alpha, offset)


def _up(value: Fraction, units: int) -> Fraction:
    return Fraction(-((-value.numerator * units) // value.denominator), units)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)
