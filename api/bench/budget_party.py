"""Some of the submitters of `exchange bench budget`, threads of a process of its own.

    python -m api.bench.budget_party < order.json

Says a line once it is ready, begins when told to, and says what was granted once nothing more is.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from api.database import open_engine, read_only
from crypto.identifiers import ProductId
from exchange.errors import BudgetExhausted
from exchange.hub.adapters.sql import SqlHubStore
from exchange.privacy import NONE, PrivacyAccount, PrivacyCost, reserve

# Of one job by the hidden join with Laplace noise: its padding, and the noise.
COST: Final = PrivacyCost(Fraction(1, 10) + 2, NONE, NONE, Fraction(2, 10**9))


@dataclass(eq=False)  # a thread is itself alone
class Submitter(threading.Thread):
    """Reserves the cost of one job after another at both products, as the hub does for a job: in
    order of product, in one transaction, durably. Until one account is exhausted."""

    store: SqlHubStore
    products: Sequence[ProductId]
    total: PrivacyCost
    latencies_s: list[float] = field(default_factory=list)
    failure: str | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        try:
            while True:
                began = time.monotonic()
                with self.store.transaction() as tx:
                    for product in self.products:
                        account = PrivacyAccount(
                            product,
                            self.total.epsilon,
                            self.total.delta,
                            tx.lock_privacy(product),
                        )
                        tx.save_privacy(product, reserve(account, COST).spent)
                self.latencies_s.append(time.monotonic() - began)
        except BudgetExhausted:
            return
        except Exception as error:  # the main thread tells the benchmark
            self.failure = f"{type(error).__name__}: {error}"


def main() -> None:
    order = json.loads(sys.stdin.readline())
    engine = open_engine(order["url"])
    store = SqlHubStore(engine, read_only(engine))
    total = PrivacyCost(
        COST.epsilon * order["reservations"], NONE, NONE, COST.delta * order["reservations"]
    )
    products = sorted(ProductId(one) for one in order["products"])
    submitters = [Submitter(store, products, total) for _ in range(order["threads"])]
    with store.reading() as tx:
        tx.agreements_of("none")  # a connection, and SQLAlchemy's own warm-up
    _say({"ready": True})
    sys.stdin.readline()
    began = time.monotonic()
    for one in submitters:
        one.start()
    for one in submitters:
        one.join()
    _say(
        {
            "began": began,
            "ended": time.monotonic(),
            "latencies_s": [latency for one in submitters for latency in one.latencies_s],
            "failures": [one.failure for one in submitters if one.failure is not None],
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }
    )
    engine.dispose()


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
