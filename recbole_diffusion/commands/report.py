"""``recbole-diffusion report``: makes the pages of results from the records, or checks them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_EXAMPLES = """\
examples:
  recbole-diffusion report
  recbole-diffusion report --check
  recbole-diffusion report --results my_results
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "report",
        help="make the pages and pictures of results from the records",
        description="Writes a page for each benchmark in RESULTS/runs, an index, mean ranks, pictures, and one HTML page.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of pages (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not what the records say")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> int:
    """Runs the command; see ``recbole-diffusion report --help``.

    Returns:
        1 if a checked file is not what the records say, else 0.

    Raises:
        SettingsError: no records, or a file of users' values that is gone or is not the one that its record names.
    """
    from recbole_diffusion.benchmark.report import stale, write_report

    if not options.check:
        print(f"{len(write_report(options.results))} files written")
        return 0
    wrong = stale(options.results)
    for name in wrong:
        print(
            f"{options.results / name} is not what {options.results / 'runs'} says; "
            "make it again without --check, or delete it if no record makes it",
            file=sys.stderr,
        )
    return 1 if wrong else 0
