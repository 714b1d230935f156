"""A deal between research and three holders, whose rows meet on one key: who is in which table is
made so that every overlap of the three has people of its own."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from crypto.identifiers import DealId, JobId
from crypto.ports import SystemRandomness
from exchange.query.question import Question
from registry.party import Role
from registry.product import Column, ColumnType, DataProduct
from registry.rule import Join, Use
from tests.world import (
    PURPOSE,
    World,
    an_approval,
    approve,
    list_rows,
    negotiate,
    terms_for,
)

HOLDERS = ("clinic", "lab", "pharmacy")
PRICES = (1000, 700, 300)
QUESTION = """
SELECT clinic.sex, pharmacy.drug, COUNT(*) AS people,
       AVG(clinic.progression) AS progression,
       SUM(lab.s5 * pharmacy.dose) AS together,
       CORR(lab.s5, pharmacy.dose) AS correlation
FROM clinic JOIN lab USING (person) JOIN pharmacy USING (person)
WHERE lab.s5 IS NOT NULL AND pharmacy.dose IS NOT NULL
GROUP BY clinic.sex, pharmacy.drug
"""


def people(*ranges: range) -> list[int]:
    return [number for one in ranges for number in one]


# 0-39 are everybody's; 40-46 are not at the pharmacy, 50-54 not at the lab, 60-62 not at the
# clinic.
CLINIC = [
    (f"p{i}", "f" if i % 2 else "m", f"{100 + 3 * (i % 17)}.5")
    for i in people(range(47), range(50, 55), range(70, 73))
]
LAB = [(f"p{i}", f"{4 + (i % 7) * 0.5:.2f}") for i in people(range(47), range(60, 63))]
PHARMACY = [
    (f"p{i}", "a" if i % 4 < 2 else "b", str(10 + i % 11))
    for i in people(range(40), range(50, 55), range(60, 63), range(80, 82))
]


@dataclass
class DealOfThree:
    world: World
    deal: DealId
    products: tuple[DataProduct, ...]

    def question(self, **changes: object) -> Question:
        asked = {
            "sql": QUESTION,
            "tables": {
                name: product.id for name, product in zip(HOLDERS, self.products, strict=True)
            },
            "purpose": PURPOSE,
            "min_group": 5,
            "run_seconds": 120,
            **changes,
        }
        return Question(**asked)  # type: ignore[arg-type]

    def submit(self, **changes: object) -> JobId:
        desk = self.world.members["research"].desk
        return desk.submit(desk.compile(self.deal, self.question(**changes)))


def a_deal_of_three(world: World) -> DealOfThree:
    """Three products listed, three agreements, everybody admits by standing approval.

    world: with its members registered (`tests.world.a_world`)
    """
    helper = world.join("helper", Role.HELPER)
    helper.desk.help_unasked(True)
    world.join("pharmacy", Role.HOLDER)
    world.introduce()
    person = Column("person", ColumnType.TEXT, "invented person id")
    described = (
        (
            (
                person,
                Column("sex", ColumnType.TEXT, "sex", categories=("f", "m")),
                Column(
                    "progression", ColumnType.DECIMAL, "progression", decimals=1, low=0, high=5000
                ),
            ),
            {"sex": (Use.GROUP_KEY, Use.FILTER), "progression": (Use.AGGREGATE,)},
        ),
        (
            (person, Column("s5", ColumnType.DECIMAL, "serum 5", decimals=2, low=0, high=1000)),
            {"s5": (Use.GROUP_KEY, Use.AGGREGATE, Use.FILTER)},
        ),
        (
            (
                person,
                Column("drug", ColumnType.TEXT, "drug", categories=("a", "b")),
                Column("dose", ColumnType.INTEGER, "dose", low=0, high=50),
            ),
            {"drug": (Use.GROUP_KEY,), "dose": (Use.AGGREGATE, Use.FILTER)},
        ),
    )
    products = tuple(
        list_rows(
            world,
            name,
            rows,
            tuple(column.name for column in columns),
            price,
            (columns, {"person": (Use.JOIN_KEY,), **uses}),
        )
        for name, rows, price, (columns, uses) in zip(
            HOLDERS, (CLINIC, LAB, PHARMACY), PRICES, described, strict=True
        )
    )
    world.settle()
    deal = DealId.new(world.clock.now(), SystemRandomness())
    named = dict(zip(HOLDERS, products, strict=True))
    for name, product in named.items():
        others = [other for other in products if other is not product]
        terms = terms_for(
            world,
            product,
            *others,
            joins=(Join.HIDDEN,),
            helper=helper.id,
            epsilon=Fraction(3),
        )
        negotiate(world, name, deal, terms)
        approve(world, name, an_approval(world, product))
    world.fund("research", 10_000)
    world.settle()
    return DealOfThree(world, deal, products)


def expected() -> dict[tuple[str, ...], tuple[int, Fraction, Fraction]]:
    """Per group, by sex and drug: people, mean progression, and the sum of s5 times dose, of the
    pooled tables."""
    lab, pharmacy = dict(LAB), {person: (drug, dose) for person, drug, dose in PHARMACY}
    groups: dict[tuple[str, ...], list[tuple[Fraction, Fraction, Fraction]]] = {
        (sex, drug): [] for sex in ("f", "m") for drug in ("a", "b")
    }
    for person, sex, progression in CLINIC:
        if person in lab and person in pharmacy:
            drug, dose = pharmacy[person]
            groups[sex, drug].append((Fraction(progression), Fraction(lab[person]), Fraction(dose)))
    return {
        group: (
            len(rows),
            sum((p for p, _, _ in rows), Fraction(0)) / len(rows),
            sum((s * d for _, s, d in rows), Fraction(0)),
        )
        for group, rows in groups.items()
    }
