"""Imports point downwards only: the picture in docs/design, held by the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT: dict[str, set[str]] = {
    "crypto": set(),
    "registry": {"crypto"},
    "ledger": {"crypto"},
    "pricing": {"crypto", "registry"},
    "exchange": {"crypto", "registry", "ledger", "pricing"},
    "api": {"crypto", "registry", "ledger", "pricing", "exchange"},
}
NEVER: dict[str, tuple[str, ...]] = {
    "exchange/hub": ("exchange.node",),
    "exchange/node": ("exchange.hub",),
    "exchange/links": ("exchange.hub", "exchange.node"),
    "exchange/terms": ("exchange.hub", "exchange.node"),
    "exchange/query": ("exchange.hub", "exchange.node"),
    "exchange/audit": ("exchange.hub", "exchange.node"),
}
# A library is met in its adapters only.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "spu": ("crypto/adapters/",),
    "rbcl": ("crypto/adapters/",),
    "tenseal": ("crypto/adapters/",),
    "phe": ("crypto/adapters/",),
    "gmpy2": ("crypto/adapters/",),
    "opendp": ("crypto/adapters/",),
    "jax": ("crypto/adapters/",),
    "web3": ("ledger/adapters/",),
    "eth_account": ("ledger/adapters/",),
    "eth_tester": ("ledger/adapters/",),
    "sqlmodel": ("/adapters/", "api/"),
    "sqlalchemy": ("/adapters/", "api/"),
    "duckdb": ("registry/adapters/", "exchange/node/adapters/", "api/demo", "api/bench"),
    "psycopg": ("registry/adapters/", "ledger/adapters/", "api/"),
    "sklearn": ("api/demo",),
}


def modules() -> list[Path]:
    return [p for top in MAY_IMPORT for p in sorted((ROOT / top).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_packages_below_its_own(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    own = place.split("/")[0]
    for name in imported(path):
        top = name.split(".")[0]
        if top in MAY_IMPORT and top != own:
            assert top in MAY_IMPORT[own], f"{place} imports {name}"
        for folder, forbidden in NEVER.items():
            if place.startswith(folder + "/"):
                assert not name.startswith(forbidden), f"{place} imports {name}"
        if top in ONLY_IN:
            assert any(part in place for part in ONLY_IN[top]), f"{place} imports {name}"


@pytest.mark.parametrize("place", ["ledger/verify", "exchange/audit"])
def test_the_auditors_programs_need_only_cryptography(place: str) -> None:
    """Follows imports from the program; whatever it reaches may use `cryptography` alone."""
    seen: set[Path] = set()
    queue = sorted((ROOT / place).rglob("*.py"))
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(path):
            top = name.split(".")[0]
            if top in MAY_IMPORT:
                for candidate in (ROOT / (name.replace(".", "/") + ".py"),):
                    if candidate.exists():
                        queue.append(candidate)
                for depth in range(1, name.count(".") + 2):
                    package = ROOT / "/".join(name.split(".")[:depth]) / "__init__.py"
                    if package.exists():
                        queue.append(package)
            else:
                assert top in sys.stdlib_module_names or top == "cryptography", f"{path}: {name}"


HEAVY = {"alembic", "duckdb", "jax", "numpy", "opendp", "spu", "sqlalchemy", "sqlglot", "tenseal"}


@pytest.mark.parametrize("name", ["api.cli", "api.cli.job", "api.cli.node", "api.cli.party"])
def test_help_is_said_without_storage_engines_or_arithmetic(name: str) -> None:
    """Asked of a fresh interpreter: `exchange job explain --help` imports as much as this."""
    script = f"import sys, {name}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
