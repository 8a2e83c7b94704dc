"""The command `podar`: parses, calls, prints. Nothing heavy is imported before a command runs."""

from podar.cli import making, showing
from podar.cli.app import app

__all__ = ["app", "main", "making", "showing"]


def main() -> None:
    """The entry point of the command `podar`."""
    app(prog_name="podar")
