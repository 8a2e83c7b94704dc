"""The Typer application: options that stand anywhere, errors in one sentence, results on the screen or as JSON."""

from __future__ import annotations

import shlex
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from podar.cli import console, signals, stage_commands
from podar.cli.output import common, print_json
from podar.errors import PodarError

if TYPE_CHECKING:
    pass

_INTERRUPTED = 130  # what shells see of a program that Ctrl-C ended
_EVERYWHERE = ("--json", "--quiet", "--debug")


class _Podar(TyperGroup):
    """Takes --json, --quiet and --debug before or after the command's name, and says errors in one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        common.command = shlex.join(["podar", *args])
        end = args.index("--") if "--" in args else len(args)
        hoisted = [arg for arg in args[:end] if arg in _EVERYWHERE]
        common.json, common.debug = "--json" in hoisted, "--debug" in hoisted  # errors of parsing are told so, too
        rest = [arg for arg in args[:end] if arg not in _EVERYWHERE] + args[end:]
        return super().parse_args(ctx, hoisted + rest)

    def list_commands(self, ctx: Any) -> list[str]:
        first, *others = super().list_commands(ctx)
        return [first, *stage_commands.names(), *others]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or stage_commands.command(cmd_name)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        try:
            with warnings.catch_warnings():
                if not sys.warnoptions:
                    warnings.simplefilter("ignore")  # libraries warn their programmers; podar's users are others
                code = super().main(*args, standalone_mode=False, **extra)
            if code == _INTERRUPTED:  # Typer's answer to Ctrl-C, without a word
                code = _told(KeyboardInterrupt())
        except BaseException as error:
            code = _told(error)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _told(error: BaseException) -> int:
    """Say an error in one sentence, with --json also as an object; returns the exit code."""
    if isinstance(error, SystemExit) and error.code == _INTERRUPTED:
        error = KeyboardInterrupt()
    if signals.arrived and "interrupted" not in str(error):  # a library made another error of it
        error = KeyboardInterrupt()
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if common.debug:
        sys.stderr.write(console.harmless("".join(traceback.format_exception(error))))
    if hasattr(error, "format_message"):  # Typer's own: an unknown option, a missing argument
        said = error.format_message().rstrip(".")  # pyright: ignore[reportAttributeAccessIssue]
        return _say(f"{said}; podar --help lists what there is", "UsageError", 2)
    if isinstance(error, PodarError):
        return _say(str(error), "UsageError" if error.exit_code == 2 else "PodarError", error.exit_code)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _say("interrupted; no file was left half-written", "Interrupted", 1)
    where = "" if common.debug else "; run again with --debug for the details, and please report it"
    reason = (str(error).splitlines() or [""])[0]
    return _say(f"unexpected {type(error).__name__}{f' ({reason})' if reason else ''}{where}", type(error).__name__, 1)


def _say(message: str, kind: str, code: int) -> int:
    """One sentence on standard error; with --json one object on standard output, too."""
    sentence = console.on_one_line(message)
    if common.json:
        print_json({"error": {"kind": kind, "message": sentence, "exit_code": code}})
    console.fail(sentence)
    return code


app = typer.Typer(
    cls=_Podar,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--json, --quiet and --debug may stand anywhere on the line.",
)


def _version(asked: bool) -> None:
    if asked:
        import podar

        typer.echo(f"podar {podar.__version__}")
        raise typer.Exit()


@app.callback()
def _everywhere(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print podar's version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make a trained PyTorch network smaller and faster, keep its accuracy, and prove it with measurements."""
    common.json, common.quiet, common.debug = as_json, quiet, debug
