"""``recbole-diffusion benchmark``: runs what is missing of a results page, and writes the page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from recbole_diffusion.property_files import names_in
from recbole_diffusion.settings import SettingsError

_EXAMPLES = """\
examples:
  recbole-diffusion benchmark reproduction --data_path dataset --list
  recbole-diffusion benchmark reproduction --data_path dataset --only "EASE"
  nohup recbole-diffusion benchmark reproduction --data_path dataset --results results &

Records go to RESULTS/runs/, one file per run; pages are made from them. Interrupt it and start it again as you like; start it
twice, in the same folders, and the two share the work.
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "benchmark",
        help="run every row of a results page that is not there yet",
        description="Runs the rows of a specification, tunes where it says so, and writes the page of the results.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("spec", metavar="SPEC", help=f"{', '.join(names_in('benchmark'))}, or a YAML file")
    parser.add_argument("--data_path", type=Path, help="folder of data sets (default: RecBole's)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of pages (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", default="", help="rows whose name contains TEXT")
    parser.add_argument("--list", action="store_true", help="say what is there and what is missing; run nothing")
    parser.add_argument("--checkpoint_dir", type=Path, default=Path("saved"), help="folder of checkpoints and logs")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> int:
    """Runs the command; see ``recbole-diffusion benchmark --help``.

    Returns:
        1 if a run failed, else 0.

    Raises:
        SettingsError: a bad specification, an unknown data set, or settings that its model refuses; nothing has run then.
    """
    from recbole_diffusion.benchmark.bench import Bench, keep_spec
    from recbole_diffusion.benchmark.pages import write_pages
    from recbole_diffusion.benchmark.per_user import drop_trials
    from recbole_diffusion.benchmark.spec import read_spec

    spec = read_spec(options.spec)
    rows = [row for row in spec.rows if options.only.lower() in row.name.lower()]
    if not rows:
        raise SettingsError(f"--only {options.only!r}: no such row; rows are {', '.join(row.name for row in spec.rows)}")
    bench = Bench(spec, options.data_path, options.results, options.checkpoint_dir)
    for row in rows:
        bench.check(row)
    if options.list:
        for row in rows:
            done, asked = bench.count(row)
            print(f"{done:>3} of {asked:<3} {row.name}")
        return 0
    keep_spec(options.spec, spec.name, options.results / "runs")
    failures = [failed for row in rows for failed in bench.run(row)]
    drop_trials(options.results / "runs")
    write_pages(options.results)
    for file in failures:
        print(f"failed: see {file}", file=sys.stderr)
    return 1 if failures else 0
