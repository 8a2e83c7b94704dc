"""Ctrl-C and SIGTERM end a command in one sentence, whatever it was doing: importing, training, measuring."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals between processes")

ROOT = Path(__file__).parents[2]
# Python with a watchman that sends a signal when a module is about to be imported.
WATCHED = """
import os, signal, sys
AT, NAME = sys.argv[1:3]
signal.signal(signal.SIGINT, signal.default_int_handler)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == AT:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), getattr(signal, NAME))
sys.meta_path.insert(0, Watch())
from podar.cli import main
sys.argv[:3] = ["podar"]
main()
"""


def signalled(at: str, name: str, *args: str) -> subprocess.CompletedProcess[str]:
    """`podar args…`, with a signal when it is about to import a module."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", WATCHED, at, name, *args], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("at", "name"),
    [
        ("typer", "SIGINT"),
        ("rich.table", "SIGTERM"),
        ("podar.cli.stage_commands", "SIGINT"),
        ("podar.sources.opening", "SIGTERM"),
        ("numpy", "SIGINT"),
        ("torch._C", "SIGTERM"),
        ("torch.nn", "SIGHUP"),
    ],
)
def test_a_signal_during_imports_is_said(at: str, name: str) -> None:
    done = signalled(at, name, "inspect", "demo", "--json")
    assert done.returncode == 1, done
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: interrupted") and "Traceback" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "Interrupted" and error["message"] in last and error["exit_code"] == 1


def test_what_the_starter_wants_ignored_is_ignored() -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from podar.cli import signals; "
    code += "signals.listen(); print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n"
    assert signal.getsignal(signal.SIGINT) is not None
