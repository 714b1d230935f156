"""The demonstration's data: scikit-learn's diabetes study, split as two institutions would hold it.

442 real patients (Efron, Hastie, Johnstone and Tibshirani 2004, "Least Angle Regression"), in
their real units. The data set names nobody: the patient ids here are invented. The laboratory
lacks some of the clinic's patients and has others whom the clinic never saw; those others are
made from the real laboratory rows, shuffled, under ids of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

SEED: Final = 20261123
MISSING_AT_LABORATORY: Final = 47
ONLY_AT_LABORATORY: Final = 35
MIN_GROUP: Final = 10
S5_CUTS: Final = ("4.2", "4.6", "5")
CLINIC_COLUMNS: Final = ("patient", "age", "sex", "bmi", "bp", "progression")
LABORATORY_COLUMNS: Final = ("patient", "s1", "s2", "s3", "s4", "s5", "s6")


@dataclass(frozen=True)
class PlainRow:
    """One group of the plaintext answer; None where the group is too small to be shown."""

    sex: str
    band: str
    count: int | None
    mean_progression: Fraction | None


def write_files(clinic: Path, laboratory: Path) -> tuple[int, int]:
    """Write the clinic's CSV and the laboratory's Parquet. Returns how many rows each holds."""
    import duckdb
    import numpy as np
    from sklearn.datasets import load_diabetes

    bunch: Any = load_diabetes(scaled=False)
    values, target = bunch.data, bunch.target
    generator = np.random.default_rng(SEED)
    ids = [f"P{number:05d}" for number in generator.choice(90_000, size=600, replace=False)]
    patients = ids[: len(target)]
    with clinic.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CLINIC_COLUMNS)
        for patient, row, progression in zip(patients, values, target, strict=True):
            sex = "1" if row[1] == 1 else "2"
            age, bmi, pressure = f"{row[0]:.0f}", f"{row[2]:.1f}", f"{row[3]:.2f}"
            writer.writerow([patient, age, sex, bmi, pressure, f"{progression:.0f}"])
    tested = sorted(generator.permutation(len(target))[MISSING_AT_LABORATORY:])
    others = generator.choice(len(target), size=ONLY_AT_LABORATORY, replace=False)
    rows = [(patients[i], *values[i, 4:10]) for i in tested]
    strangers = zip(ids[len(target) :], others, strict=False)
    rows += [(stranger, *values[i, 4:10]) for stranger, i in strangers]
    rows = [rows[i] for i in generator.permutation(len(rows))]
    with duckdb.connect() as connection:
        columns = ", ".join(f"{name} DOUBLE" for name in LABORATORY_COLUMNS[1:])
        connection.execute(f"CREATE TABLE rows (patient VARCHAR, {columns})")
        connection.executemany(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)",
            [[row[0], *(round(float(v), 4) for v in row[1:])] for row in rows],
        )
        # A path of this program's own making; COPY takes no parameters.
        connection.execute(f"COPY rows TO '{laboratory}' (FORMAT PARQUET)")
    return len(target), len(rows)


def plaintext_answer(clinic: Path, laboratory: Path) -> tuple[PlainRow, ...]:
    """The same question asked of the pooled raw files, which only this demonstration can see.

    By plain exact arithmetic in Python, sharing no code with what it checks.
    """
    import duckdb

    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT patient, s5 FROM read_parquet(?)", [str(laboratory)]
        ).fetchall()
    s5 = {patient: Fraction(str(value)) for patient, value in found}
    cuts = [Fraction(cut) for cut in S5_CUTS]
    groups: dict[tuple[str, str], list[Fraction]] = {
        (sex, band): [] for sex in ("1", "2") for band in bands()
    }
    with clinic.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["patient"] in s5:
                # The product keeps four decimals of s5, rounded half to even.
                value = Fraction(round(s5[row["patient"]] * 10**4), 10**4)
                band = bands()[sum(value >= cut for cut in cuts)]
                groups[row["sex"], band].append(Fraction(row["progression"]))
    return tuple(_shown(sex, band, values) for (sex, band), values in groups.items())


def plaintext_correlation(clinic: Path, laboratory: Path) -> dict[str, tuple[int, float]]:
    """How many patients both have, and the correlation of bmi with s5, by sex: pooled, exact."""
    import duckdb

    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT sex::VARCHAR, count(*), corr(bmi, s5) FROM read_csv(?) "
            "JOIN read_parquet(?) USING (patient) GROUP BY sex ORDER BY sex",
            [str(clinic), str(laboratory)],
        ).fetchall()
    return {sex: (count, correlation) for sex, count, correlation in found}


def bands() -> Sequence[str]:
    edges = [f"< {S5_CUTS[0]}"]
    edges += [f"{low} to < {high}" for low, high in pairwise(S5_CUTS)]
    return [*edges, f">= {S5_CUTS[-1]}"]


def _shown(sex: str, band: str, values: Sequence[Fraction]) -> PlainRow:
    if len(values) < MIN_GROUP:
        return PlainRow(sex, band, None, None)
    return PlainRow(sex, band, len(values), sum(values, Fraction(0)) / len(values))
