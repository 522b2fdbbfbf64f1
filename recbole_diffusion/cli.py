"""The ``recbole-diffusion`` command; :mod:`recbole_diffusion.commands` has a module for each subcommand."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from recbole_diffusion.commands import benchmark, convert, elbo, models, plot, recommend, report, run, speed
from recbole_diffusion.settings import NonFiniteLossError, SettingsError
from recbole_diffusion.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 2 for bad input; 1 for a training that diverged, or for a bug; 130 after Ctrl-C. Whatever went
        wrong is one line on standard error. ``--debug``, anywhere, adds the traceback.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [argument for argument in given if argument != "--debug"]
    debug = len(arguments) < len(given)
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may follow
        import argcomplete

        argcomplete.autocomplete(parser)
    options, settings = parser.parse_known_args(arguments)
    try:
        if settings and not getattr(options, "takes_settings", False):
            raise SettingsError(f"unknown argument {settings[0]!r}; see `recbole-diffusion {options.command} --help`")
        return int(options.run(options, settings, arguments) or 0)
    except BrokenPipeError:  # `recbole-diffusion models | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        line, status = _told(error)
        print(f"error: {line}", file=sys.stderr)
        return status


def _told(error: BaseException) -> tuple[str, int]:
    """What an error is to the user, on one line, and the exit status."""
    text = " ".join(str(error).split())
    match error:
        case SettingsError():
            return text, 2
        case OSError(strerror=str(why), filename=file) if file is not None:  # a full disk, a folder that is gone
            return f"{os.fspath(file)!r}: {why}", 2
        case NonFiniteLossError():
            return text, 1
        case KeyboardInterrupt():
            return text or "interrupted", 130
    return f"internal error: {type(error).__name__}: {text}; please report it with the output of --debug", 1


def entry_point() -> None:
    """The console script."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-diffusion", description="Diffusion models for recommendation in RecBole.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"recbole-diffusion {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, for a report of a bug")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (run, models, recommend, convert, benchmark, report, plot, elbo, speed):
        command.add(commands)
    return parser


if __name__ == "__main__":
    entry_point()
