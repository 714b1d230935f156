"""Set everything up and run it: `python3 run.py demo` or `python3 run.py test`.

Standard library only. The first call makes `.venv`, installs a pinned uv into it, installs
exactly what `requirements.lock` lists, checked by hash, and the project itself; a later call
starts at once. Arguments after the command are handed on: `python3 run.py demo --json`.
Everything this script says goes to standard error; standard output is the command's own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = Path(os.environ.get("UNSEEN_VENV", ROOT / ".venv"))
BIN = ENVIRONMENT / "bin"
STAMP = ENVIRONMENT / "unseen.installed"
LOCK = ROOT / "requirements.lock"
UV_VERSION = "0.12.24"

USAGE = """usage: python3 run.py demo [--json] [--keep]   run one deal between real processes
       python3 run.py test [pytest arguments]  run the test suite
       python3 run.py setup                    only install"""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in ("demo", "test", "setup"):
        print(USAGE, file=sys.stderr)
        return 2
    if sys.version_info[:2] != (3, 11):
        found = ".".join(map(str, sys.version_info[:2]))
        print(
            f"Unseen needs Python 3.11, because its secure-computation engine (spu 0.9.5) is built "
            f"for it; this is Python {found}. Run it with: python3.11 run.py {arguments[0]}",
            file=sys.stderr,
        )
        return 2
    install()
    command, rest = arguments[0], arguments[1:]
    if command == "setup":
        return 0
    # One worker per core; an idle one takes over what another has not begun.
    tests = [str(BIN / "pytest"), "-n", "auto", "--dist", "worksteal"]
    program = [str(BIN / "exchange"), "demo"] if command == "demo" else tests
    os.chdir(ROOT)
    # Where compiled modules may not be kept beside their sources, they are kept here: both commands
    # start many processes, and each would compile all that it imports anew.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ENVIRONMENT / "bytecode"))
    os.execv(program[0], [*program, *rest])


def install() -> None:
    """Bring the environment to what the lock says; nothing to do when the stamp matches."""
    wanted = hashlib.sha256(
        LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()
    ).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    say("Setting up (about 550 MB to download the first time; later calls start at once).")
    if not (BIN / "python").exists():
        say("1/4 creating the virtual environment")
        venv.EnvBuilder(with_pip=True, clear=True).create(ENVIRONMENT)
    say(f"2/4 installing uv {UV_VERSION}")
    python = str(BIN / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    with_uv = subprocess.run([*pip, f"uv=={UV_VERSION}"], stdout=sys.stderr).returncode == 0
    say("3/4 installing what requirements.lock lists, checked by hash")
    if with_uv:
        uv = [python, "-m", "uv", "pip"]
        # As pip does: where Python may not write bytecode, every start would compile it all anew.
        compiled = ["--compile-bytecode", "--require-hashes"]
        step([*uv, "install", "--python", python, *compiled, "-r", str(LOCK)])
        step([*uv, "install", "--python", python, "--no-deps", "--no-build-isolation", "-e", "."])
    else:
        say("    uv does not run here; using pip, which takes a minute longer")
        step([*pip, "--require-hashes", "-r", str(LOCK)])
        step([*pip, "--no-deps", "--no-build-isolation", "-e", "."])
    STAMP.write_text(wanted)
    say("4/4 ready")


def step(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, stdout=sys.stderr)
    if result.returncode != 0:
        say(
            "Installation stopped at: " + " ".join(command) + "\n"
            "If a proxy or a company certificate stands between this machine and the package "
            "index, set HTTPS_PROXY and SSL_CERT_FILE and run the command again; nothing needs to "
            "be removed first."
        )
        raise SystemExit(1)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
