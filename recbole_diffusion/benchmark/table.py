"""Tables made from records: ``python -m recbole_diffusion.benchmark.table [--check]``.

Reads ``results/runs/*.json`` and writes ``results/<benchmark>.md`` from the records of a benchmark (:mod:`page`) and
``results/<dataset>.md``, one table per protocol, from all others. Nothing in a table is typed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmark.page import make_page
from recbole_diffusion.benchmark.record import describe_evaluation
from recbole_diffusion.benchmark.spec import read_spec

_NOT_SETTINGS = ("seed", "data_path", "checkpoint_dir", "show_progress", "state")


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of a folder, in the order of their names."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def make_tables(folder: Path) -> dict[str, str]:
    """Markdown pages by file name, one per benchmark, and one per data set with runs of no benchmark.

    Args:
        folder: of the records, and of the specifications that the package does not bring.
    """
    records = read_records(folder)
    by_dataset, by_benchmark = defaultdict(list), defaultdict(list)
    for record in records:
        if "benchmark" in record:
            by_benchmark[record["benchmark"]["name"]].append(record)
        else:
            by_dataset[record["dataset"]].append(record)
    pages = {f"{dataset}.md": _page(dataset, of_dataset) for dataset, of_dataset in sorted(by_dataset.items())}
    for name, of_name in sorted(by_benchmark.items()):
        own = folder / f"{name}.yaml"
        pages[f"{name}.md"] = make_page(read_spec(str(own) if own.is_file() else name), of_name)
    return pages


def write_pages(results: Path) -> list[str]:
    """Writes all pages of a results folder; returns their names."""
    pages = make_tables(results / "runs")
    for name, page in pages.items():
        (results / name).write_text(page, encoding="utf-8")
    return list(pages)


def _page(dataset: str, records: list[dict[str, Any]]) -> str:
    lines = [
        f"# {dataset}",
        "",
        "Made by `python -m recbole_diffusion.benchmark.table` from `results/runs/`; do not edit. Mean and standard deviation",
        "over seeds; the epoch is chosen on validation. Rows of one table saw the same split. `evaluation`: what is masked,",
        "whether the tested model was trained anew on training and validation parts, what it sees of a user at test time.",
        "`run`: the settings hash of the first seed's record.",
    ]
    by_protocol = defaultdict(list)
    for record in records:
        overrides = "".join(f", {key} = {value}" for key, value in record["protocol_overrides"].items())
        by_protocol[record["protocol"] + overrides].append(record)
    for protocol, of_protocol in sorted(by_protocol.items()):
        lines += ["", f"## Protocol {protocol}", "", *_table(of_protocol)]
    return "\n".join(lines) + "\n"


def _table(records: list[dict[str, Any]]) -> list[str]:
    """A Markdown table, best validation score first."""
    groups = defaultdict(list)
    for record in records:
        settings = {key: value for key, value in record["settings"].items() if key not in _NOT_SETTINGS}
        groups[record["model"], json.dumps(settings, sort_keys=True)].append(record)
    metric = records[0]["settings"]["valid_metric"].lower()
    names = [metric, *(name for name in records[0]["test"] if name.startswith(("recall", "ndcg", "hit")) and name != metric)]
    names = list(dict.fromkeys(names))[:5]
    heading = ["model", "evaluation", "seeds", f"valid {metric}", *(f"test {name}" for name in names)]
    heading += ["epochs", "s/epoch", "eval s", "run"]
    rows = sorted(groups.values(), key=lambda group: -statistics.mean(record["valid"][metric] for record in group))
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for group in rows:
        cells = [
            group[0]["model"],
            describe_evaluation(group[0]["settings"]),
            str(len(group)),
            _spread(record["valid"][metric] for record in group),
            *(_spread(record["test"].get(name, float("nan")) for record in group) for name in names),
            f"{statistics.mean(record['epochs'] for record in group):.0f}",
            f"{statistics.mean(record['epoch_s'] for record in group):.2g}",
            f"{statistics.mean(record['eval_s']['test'] for record in group):.2g}",
            f"`{group[0]['settings_hash']}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _spread(values: Iterable[float]) -> str:
    """``mean +- standard deviation`` of a metric, to four decimals."""
    collected = list(values)
    mean = f"{statistics.mean(collected):.4f}"
    return f"{mean} +- {statistics.stdev(collected):.4f}" if len(collected) > 1 else mean


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables, or with ``--check`` tells whether they are what the records say (status 1 if not)."""
    parser = argparse.ArgumentParser(prog="python -m recbole_diffusion.benchmark.table", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of tables, with runs/ inside")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of step")
    options = parser.parse_args(argv)
    if not options.check:
        print(f"{len(write_pages(options.results))} tables written")
        return 0
    pages = make_tables(options.results / "runs")
    stale = [name for name, page in pages.items() if not _same(options.results / name, page)]
    stale += [file.name for file in options.results.glob("*.md") if file.name not in pages]
    for name in stale:
        print(f"{options.results / name} is not what results/runs says", file=sys.stderr)
    print(f"{len(pages)} tables, {len(stale)} out of step")
    return 1 if stale else 0


def _same(file: Path, page: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == page


if __name__ == "__main__":
    sys.exit(main())
