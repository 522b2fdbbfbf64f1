"""The ``recbole-diffusion`` command; :mod:`recbole_diffusion.commands` has a module for each subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from recbole_diffusion.commands import benchmark, convert, elbo, models, plot, recommend, run, speed
from recbole_diffusion.settings import NonFiniteLossError, SettingsError
from recbole_diffusion.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0, 2 for bad input, 1 for a training that diverged (each one line on standard error), 130 after
        Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options, settings = _parser().parse_known_args(arguments)
    try:
        if settings and not getattr(options, "takes_settings", False):
            raise SettingsError(f"unknown argument {settings[0]!r}; see `recbole-diffusion {options.command} --help`")
        return int(options.run(options, settings, arguments) or 0)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"error: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `recbole-diffusion models | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def entry_point() -> None:
    """The console script."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-diffusion", description="Diffusion models for recommendation in RecBole.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"recbole-diffusion {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (run, models, recommend, convert, benchmark, plot, elbo, speed):
        command.add(commands)
    return parser


if __name__ == "__main__":
    entry_point()
