"""The command `podar`: parses, calls, prints. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

from podar.cli import signals

if TYPE_CHECKING:
    from podar.cli.app import app

__all__ = ["app", "main"]

# In the order of the help; the commands of stages stand behind the first.
_COMMANDS = ("demo", "run", "resume", "inspect", "sensitivity", "pareto", "profile", "export", "bench", "report")
_EARLY = "interrupted before anything was done."


def main() -> None:
    """The entry point of the command `podar`."""
    signals.listen()
    try:
        command = __getattr__("app")
    except BaseException:
        if not signals.arrived:
            raise
        # Ctrl-C while the command line itself was being imported: its own ways to say something may not be there.
        if "--json" in sys.argv:
            sys.stdout.write(json.dumps({"error": {"kind": "Interrupted", "message": _EARLY, "exit_code": 1}}) + "\n")
        sys.stderr.write(f"Error: {_EARLY}\n")
        sys.exit(1)
    command(prog_name="podar")


def __getattr__(name: str) -> Any:
    """The application with all its commands, imported when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for command in _COMMANDS:
        importlib.import_module(f"{__name__}.{command}")
    globals()["app"] = importlib.import_module(f"{__name__}.app").app
    return globals()["app"]
