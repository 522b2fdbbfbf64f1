"""``recbole-diffusion benchmark``: runs what is missing of a results page, and writes the page."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_diffusion.property_files import names_in
from recbole_diffusion.settings import SettingsError

if TYPE_CHECKING:
    from recbole_diffusion.benchmark.plan import Plan
    from recbole_diffusion.benchmark.spec import Row

_EXAMPLES = """\
examples:
  recbole-diffusion benchmark smoke --jobs 2 --results smoke
  recbole-diffusion benchmark reproduction --data_path dataset --list
  recbole-diffusion benchmark reproduction --data_path dataset --only "EASE"
  nohup recbole-diffusion benchmark reproduction --data_path dataset --results results &
  recbole-diffusion benchmark next-item-ml-100k --seeds 1
  recbole-diffusion benchmark general-ml-100k --jobs 4 --ray 10.0.0.1:6379

Records go to RESULTS/runs/, one file per run; pages are made from them. Interrupt or kill it and start it again as you like:
runs end with it, and go on from their last epoch. Start it twice, in the same folders, and the two share the work.

A specification with `search: {trials: 20, minutes: 60}` has optuna choose among the candidates of each row's `tune`, which
may be ranges such as {low: 1e-4, high: 1e-2, log: True}; it needs the extra `benchmark`. The trials are kept in
RESULTS/runs/SPEC.sqlite, and listed in RESULTS/runs/SPEC.trials.jsonl.
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
    parser.add_argument("--seeds", type=int, metavar="N", help="the first N seeds of each row; the others another time")
    parser.add_argument("--list", action="store_true", help="say what is there and what is missing; run nothing")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time, each with its share of the processors (default: 1)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="make the runs as Ray tasks: `local`, or the address of a cluster whose machines share these folders",
    )
    parser.add_argument(
        "--trust-pickle", action="store_true", help="let runs read pickled data sets and models, which can run any code"
    )
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
    from recbole_diffusion.benchmark.per_user import drop_trials
    from recbole_diffusion.benchmark.plan import Plan
    from recbole_diffusion.benchmark.report import write_report
    from recbole_diffusion.benchmark.spec import read_spec
    from recbole_diffusion.benchmark.workers import LocalWorkers, RayWorkers

    if options.jobs < 1:
        raise SettingsError(f"--jobs {options.jobs}: must be an integer >= 1")
    if options.seeds is not None and options.seeds < 1:
        raise SettingsError(f"--seeds {options.seeds}: must be an integer >= 1")
    spec = read_spec(options.spec)
    rows = [row for row in spec.rows if options.only.lower() in row.name.lower()]
    rows = [dataclasses.replace(row, seeds=row.seeds[: options.seeds]) for row in rows]
    if not rows:
        raise SettingsError(f"--only {options.only!r}: no such row; rows are {', '.join(row.name for row in spec.rows)}")
    plan = Plan(spec, options.data_path, options.results, options.checkpoint_dir)
    for row in rows:
        plan.check(row)
    if options.list:
        _list(plan, rows, options.jobs)
        return 0
    workers = LocalWorkers(options.jobs) if options.ray is None else RayWorkers(options.ray, options.jobs)
    keep_spec(options.spec, spec.name, plan.runs)
    try:
        failures = Bench(plan, workers, options.trust_pickle).run(rows)
    finally:
        workers.stop()
    drop_trials(options.results / "runs")
    write_report(options.results)
    for file in failures:
        print(f"failed: see {file}", file=sys.stderr)
    return 1 if failures else 0


def _list(plan: Plan, rows: list[Row], jobs: int) -> None:
    """Prints what is there of each row, what is asked for, and how long the rest takes."""
    from recbole_diffusion.benchmark.progress import time_left

    means, missing = plan.seconds_of_a_run(rows), {}
    for row in rows:
        done, asked = plan.count(row)
        missing[row.name] = asked - done
        left = time_left({row.name: asked - done}, means, 1) if asked > done else ""
        print(f"{done:>3} of {asked:<3} {row.name}{left and f': {left}'}")
    if any(missing.values()):
        print(f"in all, {jobs} at a time: {time_left(missing, means, jobs)} (training and evaluation)")
