"""Where rows are: settings that hold no secret and mean one file or one table."""

from __future__ import annotations

import pytest

from crypto import record
from crypto.errors import Malformed
from registry.errors import DocumentRefused
from registry.source import FileFormat, FileSource, PostgresSource, SourceSettings


def a_table(**changes: object) -> PostgresSource:
    settings: dict[str, object] = {
        "connection": "clinic",
        "schema": "public",
        "table": "patients",
        "role": None,
        "statement_timeout_s": 30,
    }
    return PostgresSource(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        FileSource("/data/clinic.csv", FileFormat.CSV),
        FileSource("/data/患者.parquet", FileFormat.PARQUET),
        a_table(),
        a_table(connection="/etc/unseen/clinic.conninfo", role="reader"),
    ],
)
def test_settings_come_back_from_their_canonical_bytes(settings: SourceSettings) -> None:
    value = record.to_value(settings)
    assert record.from_value(SourceSettings, value) == settings  # type: ignore[arg-type]
    assert record.to_bytes(settings) == record.to_bytes(
        record.from_value(SourceSettings, value)  # type: ignore[arg-type]
    )


def test_settings_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(Malformed, match="kind: is not one of file, postgresql"):
        record.from_value(SourceSettings, {"kind": "s3", "path": "/x"})  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["clinic.csv", "", "s3://bucket/x", "https://x/y", "~/x.csv"])
def test_a_path_that_is_not_absolute_is_refused(path: str) -> None:
    with pytest.raises(DocumentRefused, match="path: must be an absolute path"):
        FileSource(path, FileFormat.CSV)


@pytest.mark.parametrize("path", ["/data/*.csv", "/data/?.csv", "/data/[ab].csv"])
def test_a_path_that_would_match_several_files_is_refused(path: str) -> None:
    with pytest.raises(DocumentRefused, match="several files"):
        FileSource(path, FileFormat.CSV)


@pytest.mark.parametrize(
    "connection",
    ["", "host=db password=geheim", "postgresql://u:p@db/x", "password=geheim"],
)
def test_a_connection_string_in_the_settings_is_refused(connection: str) -> None:
    with pytest.raises(DocumentRefused, match="service name or the absolute path") as refusal:
        a_table(connection=connection)
    assert "geheim" not in str(refusal.value)


@pytest.mark.parametrize("field", ["schema", "table", "role"])
@pytest.mark.parametrize("name", ["", "x" * 64, "汉" * 22, "a\x00b"])
def test_a_name_that_postgresql_would_cut_or_refuse_is_refused(field: str, name: str) -> None:
    with pytest.raises(DocumentRefused, match=f"{field}: must be a name"):
        a_table(**{field: name})


@pytest.mark.parametrize("seconds", [0, -1, 86_401])
def test_a_statement_timeout_is_between_a_second_and_a_day(seconds: int) -> None:
    with pytest.raises(DocumentRefused, match="statement_timeout_s"):
        a_table(statement_timeout_s=seconds)
