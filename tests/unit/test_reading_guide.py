"""What the auditor's guide says an auditor has to read is counted here."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "auditing.md").read_text("utf-8")
PROGRAMS = re.findall(r"^\| `[a-z. ]+` \| `([a-z/]+\.py)` \| ([0-9,]+) \|$", GUIDE, re.MULTILINE)
NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def with_imports(path: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = {path}
    while waiting:
        module = waiting.pop()
        found.add(module)
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                paths = {ROOT / f"{name.replace('.', '/')}.py" for name in names}
                waiting |= {path for path in paths if path.exists()} - found
    return found


def lines_of_code(path: Path) -> int:
    text = path.read_text("utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            first = node.body[0]
            lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
    return len(lines)


def test_the_guide_names_programs() -> None:
    assert len(PROGRAMS) == 6


@pytest.mark.parametrize(("module", "said"), PROGRAMS)
def test_a_program_is_as_long_as_the_guide_says(module: str, said: str) -> None:
    counted = sum(map(lines_of_code, with_imports(ROOT / module)))
    assert counted == pytest.approx(int(said.replace(",", "")), rel=0.05)


def test_what_decides_about_a_receipt_takes_an_hour() -> None:
    sentence = re.search(r"An hour is enough .*?`receipt`\.", GUIDE)
    assert sentence is not None
    named = re.findall(r"`([a-z]+)`", sentence.group())
    assert len(named) == 8
    counted = sum(lines_of_code(ROOT / "ledger" / "verify" / f"{name}.py") for name in named)
    assert counted == pytest.approx(750, rel=0.05)
