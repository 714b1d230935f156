"""What the demonstration's people list, agree on and ask: documents only, no processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from api.demo.data import MIN_GROUP, S5_CUTS
from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
from crypto.ports import Randomness
from crypto.record import Amount
from exchange.query.question import Question
from exchange.terms.agreement import Partner, Terms
from registry.party import SignedParty
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, PrivacyRule, Use

PURPOSE: Final = "research"
CURRENCY: Final = "TEST"
CLINIC_PRICE: Final = 120_00
LABORATORY_ASKS: Final = 95_00
LABORATORY_LISTED: Final = 80_00
# What the second question's noise costs each product, of what the agreements allow in all.
CORRELATION_EPSILON: Final = Fraction(6)
AGREED_EPSILON: Final = Fraction(20)
PRIVACY: Final = PrivacyRule(
    epsilon_per_job=Fraction(8),
    epsilon_total=Fraction(40),
    delta_total=Fraction(1, 10**6),
    noise=False,
)


def clinic_product(holder: SignedParty, now: datetime, randomness: Randomness) -> DataProduct:
    columns = (
        Column("patient", ColumnType.TEXT, "invented patient id, shared by both institutions"),
        Column("age", ColumnType.INTEGER, "age", unit="years", low=0, high=120),
        Column("sex", ColumnType.TEXT, "sex as the study codes it", categories=("1", "2")),
        _decimal("bmi", "body mass index", "kg/m2", 1, 10_0, 60_0),
        _decimal("bp", "average blood pressure", "mmHg", 2, 0, 300_00),
        Column(
            "progression",
            ColumnType.INTEGER,
            "disease progression one year after baseline",
            low=0,
            high=1_000,
        ),
    )
    uses = {
        "patient": (Use.JOIN_KEY,),
        "sex": (Use.GROUP_KEY, Use.FILTER),
        "age": (Use.FILTER,),
        "bmi": (Use.AGGREGATE, Use.FILTER),
        "bp": (Use.AGGREGATE,),
        "progression": (Use.AGGREGATE,),
    }
    return _product(
        holder,
        now,
        randomness,
        name="Diabetes clinic: patients and progression",
        description="Age, sex, BMI, blood pressure and disease progression of diabetes patients.",
        columns=columns,
        uses=uses,
        price=CLINIC_PRICE,
    )


def laboratory_product(holder: SignedParty, now: datetime, randomness: Randomness) -> DataProduct:
    meanings = {
        "s1": "total serum cholesterol",
        "s2": "low-density lipoproteins",
        "s3": "high-density lipoproteins",
        "s4": "total cholesterol over HDL",
        "s5": "logarithm of serum triglycerides, possibly",
        "s6": "blood sugar",
    }
    columns = (
        Column("patient", ColumnType.TEXT, "invented patient id, shared by both institutions"),
        *(_decimal(name, text, None, 4, 0, 1_000 * 10**4) for name, text in meanings.items()),
    )
    uses = {
        "patient": (Use.JOIN_KEY,),
        **dict.fromkeys(("s1", "s2", "s3", "s4", "s6"), (Use.AGGREGATE,)),
        "s5": (Use.GROUP_KEY, Use.AGGREGATE, Use.FILTER),
    }
    return _product(
        holder,
        now,
        randomness,
        name="Serum laboratory: six blood measurements",
        description="Cholesterol, lipoproteins, triglycerides and blood sugar of patients.",
        columns=columns,
        uses=uses,
        price=LABORATORY_LISTED,
    )


def terms(
    product: DataProduct,
    digest: Digest,
    *,
    other: DataProduct,
    regulator: SignedParty,
    helper: PartyId | None,
    now: datetime,
) -> Terms:
    return Terms(
        product_id=product.id,
        product=digest,
        purposes=(PURPOSE,),
        joins=product.rule.joins,
        combine_with=(Partner(other.id, other.holder),),
        helper=helper,
        min_group=MIN_GROUP,
        runs=50,
        epsilon=AGREED_EPSILON,
        currency=CURRENCY,
        price_minor=product.price_minor,
        valid_from=now,
        valid_until=now + timedelta(days=30),
        regulator=regulator.document.party,
        regulator_document=regulator.digest,
    )


def dearer(offered: Terms) -> Terms:
    """The laboratory's counter-offer."""
    return replace(offered, price_minor=Amount(LABORATORY_ASKS))


def question(clinic: ProductId, laboratory: ProductId) -> Question:
    """Mean progression and patient count by sex and by band of serum s5, groups of at least 10."""
    bands = f"BANDS(laboratory.s5, {', '.join(S5_CUTS)})"
    return Question(
        sql=f"""
            SELECT clinic.sex, {bands} AS s5, COUNT(*) AS people,
                   AVG(clinic.progression) AS mean_progression
            FROM clinic JOIN laboratory ON clinic.patient = laboratory.patient
            GROUP BY clinic.sex, {bands}
        """,  # noqa: S608  # our own question, compiled and never run as SQL
        tables={"clinic": clinic, "laboratory": laboratory},
        purpose=PURPOSE,
        join=Join.REVEALED,
        min_group=MIN_GROUP,
        run_seconds=60,
    )


def correlation(clinic: ProductId, laboratory: ProductId) -> Question:
    """The correlation of the clinic's bmi with the laboratory's s5, by sex, by the hidden join with
    noise: nobody learns which patients both have."""
    return Question(
        sql="""
            SELECT clinic.sex, COUNT(*) AS people,
                   CORR(CLAMP(clinic.bmi, 15, 45), CLAMP(laboratory.s5, 3, 6.5)) AS correlation
            FROM clinic JOIN laboratory ON clinic.patient = laboratory.patient
            GROUP BY clinic.sex
        """,
        tables={"clinic": clinic, "laboratory": laboratory},
        purpose=PURPOSE,
        join=Join.HIDDEN,
        min_group=MIN_GROUP,
        epsilon=CORRELATION_EPSILON,
        run_seconds=60,
    )


def month_after(now: datetime) -> datetime:
    return now + timedelta(days=30)


def _decimal(
    name: str, meaning: str, unit: str | None, decimals: int, low: int, high: int
) -> Column:
    return Column(
        name, ColumnType.DECIMAL, meaning, unit=unit, decimals=decimals, low=low, high=high
    )


def _product(
    holder: SignedParty,
    now: datetime,
    randomness: Randomness,
    *,
    name: str,
    description: str,
    columns: tuple[Column, ...],
    uses: Mapping[str, tuple[Use, ...]],
    price: int,
) -> DataProduct:
    return DataProduct(
        v=1,
        id=ProductId.new(now, randomness),
        version=1,
        holder=holder.document.party,
        holder_document=holder.digest,
        name=name,
        description=description,
        columns=columns,
        key="patient",
        cap=1_000,
        rule=AnalysisRule(
            uses=uses,
            functions=(Function.COUNT, Function.SUM, Function.MEAN, Function.CORRELATION),
            joins=(Join.HIDDEN, Join.REVEALED),
            min_group=MIN_GROUP,
            purposes=(PURPOSE,),
            privacy=PRIVACY,
        ),
        currency=CURRENCY,
        price_minor=Amount(price),
    )
