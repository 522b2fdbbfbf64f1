"""The page of a benchmark: rows of a specification, filled from records."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from recbole_diffusion.benchmark.record import describe_evaluation
from recbole_diffusion.benchmark.spec import Row, Spec

_CURVE_AT = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200)
# Where a run takes place and what it is called says nothing about a row.
_NOT_SETTINGS = {"seed", "data_path", "checkpoint_dir", "show_progress"}

Record = dict[str, Any]


def make_page(spec: Spec, records: Sequence[Record]) -> str:
    """The Markdown page of a specification.

    Args:
        spec: what is on the page.
        records: those with ``benchmark.name`` equal to the specification's.

    Returns:
        Markdown; rows without records are left out.
    """
    by_row: dict[str, list[Record]] = defaultdict(list)
    trials: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        label = record["benchmark"]
        if label["role"] == "seed":
            by_row[label["row"]].append(record)
        row = next((row for row in spec.rows if row.name == label["row"]), None)
        if row is not None and row.tune and record["seed"] == row.seeds[0]:
            trials[label["row"]].append(record)
    lines = [
        f"# {spec.title}",
        "",
        f"Made from `results/runs/{spec.name}-*.json` by `recbole-diffusion benchmark {spec.name}`; do not edit. Mean +-",
        "standard deviation over seeds. The epoch, and the settings of a tuned row, are chosen on validation; `valid` is",
        "the metric that chose. Published rows are quoted, not run.",
        *spec.about.splitlines(),
    ]
    for dataset in dict.fromkeys(row.dataset for row in spec.rows):
        rows = [row for row in spec.rows if row.dataset == dataset and by_row[row.name]]
        if rows:
            of_rows = {row.name: by_row[row.name] for row in rows}
            lines += ["", f"## {dataset}", "", _data(of_rows), "", *_results(spec, dataset, of_rows)]
            lines += ["", *spec.notes.get(dataset, "").splitlines()]
            lines += _section("Settings", _settings(rows, of_rows))
            lines += _section("Tuning", _tuning(rows, trials))
            lines += _section("Validation by epoch", _curves(of_rows))
            lines += _section("Diagnostics", _diagnostics(of_rows))
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"### {title}", "", *lines] if lines else []


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(heading), ["---"] * len(heading), *map(list, rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _data(rows: dict[str, list[Record]]) -> str:
    """What the rows were computed on, and how they were evaluated; rows of different kinds cannot be compared."""
    kinds: dict[tuple[str, str, str], dict[str, Record]] = defaultdict(dict)
    for name, records in rows.items():
        for record in records:
            how = describe_evaluation(record["settings"])
            kinds[record["protocol"], record["data"]["fingerprint"], how][name] = record
    parts = []
    for (protocol, fingerprint, how), of_rows in kinds.items():
        data = next(iter(of_rows.values()))["data"]
        counts = " / ".join(f"{count:,}" for count in data["rows"].values())
        whose = f"{', '.join(of_rows)}: protocol" if len(kinds) > 1 else "Protocol"
        parts.append(
            f"{whose} `{protocol}`, data `{fingerprint}`: {data['users']:,} users, {data['items']:,} items, {counts} rows. "
            f"Evaluation: {how}."
        )
    return "\n\n".join(parts)


def _results(spec: Spec, dataset: str, rows: dict[str, list[Record]]) -> list[str]:
    quoted = spec.published.get(dataset, [])
    known = {name for row in quoted for name in row}
    known.update(name for records in rows.values() for record in records for name in record["test"])
    metrics = [metric for metric in spec.metrics[dataset] if metric in known]  # a column needs a row that has it
    heading = ["row", "source", "seeds", "valid", *metrics, "best epoch", "minutes", "evaluation s", "run"]
    table = []
    for published in quoted:
        cells = [_quoted(published.get(metric)) for metric in metrics]
        table.append([published["row"], published["source"], "", "", *cells, "", "", "", ""])
    for name, records in rows.items():
        selects = records[0]["settings"]["valid_metric"].lower()
        table.append(
            [
                name,
                "ours" if all(record["dirty"] is False for record in records) else "ours, changed tree",
                str(len(records)),
                f"{_spread(record['valid'][selects] for record in records)} ({selects})",
                *(_spread(record["test"].get(metric) for record in records) for metric in metrics),
                "" if len(records[0]["curve"]) < 2 else _mean(record["best_epoch"] + 1 for record in records),
                _mean((_seconds(record) / 60 for record in records), "{:.1f}"),
                _mean((record["eval_s"]["test"] for record in records), "{:.1f}"),
                f"`{records[0]['settings_hash']}`",
            ]
        )
    return _table(heading, table)


def _settings(rows: list[Row], records: dict[str, list[Record]]) -> list[str]:
    lines = []
    for row in rows:
        keys = [*row.settings, *row.tune]
        kept = records[row.name][0]["settings"]
        used = [f"{key} = {kept[key]}" for key in keys if key in kept]  # a record may be older than a setting
        lines.append(f"- {row.name}: {row.model}, {'; '.join(used) if used else 'the defaults'}")
    return lines


def _tuning(rows: list[Row], trials: dict[str, list[Record]]) -> list[str]:
    lines = []
    for row in rows:
        for record in sorted(trials[row.name], key=lambda record: -_selected(record)):
            values = ", ".join(f"{key} = {record['settings'][key]}" for key in row.tune)
            lines.append([row.name, values, f"{_selected(record):.4f}", str(record["epochs"])])
    return _table(["row", f"candidate (seed {rows[0].seeds[0]})", "valid", "epochs"], lines) if lines else []


def _curves(rows: dict[str, list[Record]]) -> list[str]:
    table = []
    for name, records in rows.items():
        if max(len(record["curve"]) for record in records) < 2:
            continue
        cells = []
        for epoch in _CURVE_AT:
            scores = [
                entry["valid_score"]
                for record in records
                for entry in record["curve"]
                if entry["epoch"] == epoch - 1 and "valid_score" in entry
            ]
            cells.append(f"{statistics.mean(scores):.4f}" if len(scores) == len(records) else "")
        table.append([name, *cells])
    return _table(["row", *(f"epoch {epoch}" for epoch in _CURVE_AT)], table) if table else []


def _diagnostics(rows: dict[str, list[Record]]) -> list[str]:
    with_some = {name: records for name, records in rows.items() if all("diagnostics" in record for record in records)}
    keys = list(dict.fromkeys(key for records in with_some.values() for key in records[0]["diagnostics"]))
    table = [
        [name, *(_spread(record["diagnostics"].get(key) for record in records) for key in keys)]
        for name, records in with_some.items()
    ]
    return _table(["row", *keys], table) if table else []


def _selected(record: Record) -> float:
    return float(record["valid"][record["settings"]["valid_metric"].lower()])


def _seconds(record: Record) -> float:
    return sum(entry["train_s"] + entry.get("eval_s", 0.0) for entry in record["curve"])


def _quoted(value: Any) -> str:
    return "" if value is None else str(value)


def _mean(values: Iterable[float], form: str = "{:.0f}") -> str:
    return form.format(statistics.mean(values))


def _spread(values: Iterable[float | None]) -> str:
    collected = list(values)
    if any(value is None for value in collected):
        return ""
    digits: Callable[[float], str] = "{:.4f}".format
    mean = digits(statistics.mean(collected))
    return f"{mean} +- {digits(statistics.stdev(collected))}" if len(collected) > 1 else mean
