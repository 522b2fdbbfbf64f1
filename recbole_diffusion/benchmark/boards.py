"""Boards: rows that are compared with each other, made from records, with a specification or without one."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmark.per_user import read_users
from recbole_diffusion.benchmark.record import read_records
from recbole_diffusion.benchmark.spec import Row, Spec, is_number, read_spec
from recbole_diffusion.benchmark.statistics import Comparison, Ranks, Runs, mean_ranks
from recbole_diffusion.settings import SettingsError

Record = dict[str, Any]

SIMPLE = ("Pop", "ItemKNN", "EASE", "TEASE", "SequentialKNN")
"""Models whose rows are the simple ones where a specification names none."""

# What says where a run takes place and what it is called says nothing about a row.
_NOT_SETTINGS = ("seed", "data_path", "checkpoint_dir", "show_progress", "state")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of ours.

    Attributes:
        name: unique on its board.
        records: a record for each seed, in order.
        keys: of the settings that make the row what it is.
        trials: what was tried to choose its settings, best first: mappings of ``tried`` (settings), ``valid`` (score),
            ``epochs``, ``seconds`` and ``end`` (``complete``, ``pruned``, ``cut``, ``failed``).
    """

    name: str
    records: list[Record]
    keys: list[str]
    trials: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def model(self) -> str:
        return self.records[0]["model"]

    @property
    def scoring_keys(self) -> list[str]:
        """The settings of scoring that its further ways to score change."""
        return list(dict.fromkeys(key for also in self.records[0].get("test_also", []) for key in also["settings"]))

    def scores(self, metric: str, masking: str = "") -> list[float] | None:
        """The test metric of each seed; None unless all have it.

        Args:
            masking: ``masked`` or ``unmasked`` for the figures of that ranking, empty for those of the one asked for.
        """
        found = [_test(record, masking).get(metric) for record in self.records]
        return None if any(score is None for score in found) else found


def _test(record: Record, masking: str) -> dict[str, float]:
    return record.get("test_by_masking", {}).get(masking, {}) if masking else record["test"]


@dataclasses.dataclass(frozen=True)
class Significance:
    """Which rows of a board can be told apart.

    Attributes:
        letters: rows that share one cannot be told apart; rows without values of users have none.
        p_values: by the row that all others are tested against (the best simple one, then EASE or SequentialKNN where it is
            another), the adjusted p-value of every other row.
        why_not: why there are none, in words; empty if there are.
    """

    letters: dict[str, str]
    p_values: dict[str, dict[str, float]]
    why_not: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Board:
    """Rows that are compared with each other.

    Attributes:
        heading: the data set, with the block of its rows if they have one; the protocol where the page is a data set's.
        entries: by name, in the page's order.
        metrics: columns.
        folder: of the records.
        simple: names of the simple rows.
        published: mappings of ``row``, ``source`` and metrics, quoted.
        note: text of the specification.
        ranks: name of the boards that this one is ranked together with, if any.
    """

    heading: str
    entries: dict[str, Entry]
    metrics: list[str]
    folder: Path
    simple: list[str]
    published: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    note: str = ""
    ranks: str | None = None

    @property
    def metric(self) -> str:
        """The metric that rows are ordered and tested by: the one that selects, if it is one and a column; else the first."""
        selecting = {entry.records[0]["settings"]["valid_metric"].lower() for entry in self.entries.values()}
        return selecting.pop() if len(selecting) == 1 and selecting <= {*self.metrics} else self.metrics[0]

    @property
    def records(self) -> list[Record]:
        return [record for entry in self.entries.values() for record in entry.records]

    def varied(self) -> dict[str, dict[str, list[Record]]]:
        """By setting, and by row, the runs that differ in this number alone, of three values or more.

        A row's further ways to score count as runs. Where the values are those of several rows, the first one names them; where
        none is a row's own, what else the ways change.
        """
        runs = [
            (entry.name, variant, way)
            for entry in self.entries.values()
            for record in entry.records
            for variant, way in zip(variants(record), [{}, *record.get("test_also", [])], strict=True)
        ]
        keys = dict.fromkeys(key for entry in self.entries.values() for key in [*entry.keys, *entry.scoring_keys])
        found: dict[str, dict[str, list[Record]]] = {}
        for key in keys:
            groups: dict[str, list[tuple[str, Record]]] = defaultdict(list)
            names: dict[str, str] = {}
            for name, record, way in runs:
                if is_number(record["settings"].get(key)):
                    others = {other: value for other, value in _settings(record).items() if other not in (key, "test_also")}
                    group = json.dumps([record["model"], others], sort_keys=True)
                    groups[group].append((name, record))
                    changed = {other: value for other, value in way.get("settings", {}).items() if other != key}
                    of_way = ", ".join([name, *(f"{other} = {value}" for other, value in changed.items())])
                    names[group] = names.get(group, of_way) if way else groups[group][0][0]
            lines = {
                names[group]: [record for _, record in members]
                for group, members in groups.items()
                if len({record["settings"][key] for _, record in members}) > 2
            }
            if lines:
                found[key] = lines
        return found

    @functools.cached_property
    def maskings(self) -> list[str]:
        """The rankings beside the one asked for: ``masked`` or ``unmasked``, where the runs have both."""
        asked = {True: "masked", False: "unmasked"}
        both = [record for record in self.records if "test_by_masking" in record]
        return sorted(
            {name for record in both for name in record["test_by_masking"]} - {asked[both[0]["masked"]]} if both else []
        )

    def best_first(self, masking: str = "") -> list[str]:
        """Names of the rows that have the metric, by its mean over seeds; equal ones in the page's order."""
        scores = {name: entry.scores(self.metric, masking) for name, entry in self.entries.items()}
        means = {name: statistics.mean(found) for name, found in scores.items() if found}
        return sorted(means, key=lambda name: -means[name])

    def references(self, masking: str = "") -> list[str]:
        """The rows that all others are tested against: the best simple one; the best EASE or SequentialKNN."""
        order = self.best_first(masking)
        sequential = self.records[0]["settings"]["repeatable"]
        of_model = [name for name in order if self.entries[name].model == ("SequentialKNN" if sequential else "EASE")]
        return list(dict.fromkeys([*[name for name in order if name in self.simple][:1], *of_model[:1]]))

    def significance(self, masking: str = "") -> Significance:
        """Tests all pairs of rows that have values of users, and each against :meth:`references`."""
        order = [name for name in self.best_first(masking) if self._runs(name, masking)]
        if len(order) < 2:
            return Significance({}, {}, "fewer than two rows have values of each user, which older records lack")
        comparison = Comparison({name: self._runs(name, masking) for name in order})
        try:
            against = {name: comparison.against(name) for name in self.references(masking) if name in order}
            return Significance(comparison.letters(order), against)
        except ValueError as error:
            return Significance({}, {}, str(error))

    @functools.cache  # noqa: B019
    def _runs(self, name: str, masking: str) -> Runs | None:
        records = self.entries[name].records
        key = f"{masking}:{self.metric}" if masking else self.metric
        found = {record["seed"]: read_users(record, self.folder).get(key) for record in records}
        values = {seed: of_users for seed, of_users in found.items() if of_users is not None}
        if len(values) < len(records):
            return None
        users = {record["seed"]: record["per_user"]["users_sha256"] for record in records}
        return Runs(values, users, {record["seed"]: record["data"]["fingerprint"] for record in records})


@dataclasses.dataclass(frozen=True)
class Page:
    """Boards on one page, ``results/<name>.md``."""

    name: str
    title: str
    about: str
    boards: list[Board]
    records: list[Record]


def read_pages(results: Path) -> list[Page]:
    """The pages of a folder: one for each benchmark, and one for each data set that has runs of no benchmark.

    Args:
        results: has ``runs/`` with records, their users' values, and the specifications that the package does not bring.

    Raises:
        SettingsError: no such folder.
    """
    folder = results / "runs"
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder; name one with runs/ in it, or make it: recbole-diffusion benchmark")
    by_dataset: dict[str, list[Record]] = defaultdict(list)
    by_benchmark: dict[str, list[Record]] = defaultdict(list)
    for record in read_records(folder):
        label = record.get("benchmark")
        (by_benchmark[label["name"]] if label else by_dataset[record["dataset"]]).append(record)
    pages = [_page_of_dataset(name, records, folder) for name, records in by_dataset.items()]
    for name, records in by_benchmark.items():
        own = folder / f"{name}.yaml"
        pages.append(_page_of_spec(read_spec(str(own) if own.is_file() else name), records, folder))
    return sorted(pages, key=lambda page: page.name)


def _page_of_spec(spec: Spec, records: Sequence[Record], folder: Path) -> Page:
    """Rows without records are left out, and records without a row."""
    of_row: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        of_row[record["benchmark"]["row"]].append(record)
    searched = _searched(folder / f"{spec.name}.trials.jsonl")
    boards = []
    for heading, dataset, block in dict.fromkeys((row.board, row.dataset, row.block) for row in spec.rows):
        entries = {}
        for row in (row for row in spec.rows if row.board == heading):
            seeds = [record for record in of_row[row.name] if record["benchmark"]["role"] == "seed"]
            for one, other in itertools.pairwise(seeds):
                if one["seed"] == other["seed"]:
                    raise SettingsError(
                        f"{folder}: row {row.name!r} of {spec.name} has two records of seed {one['seed']}, "
                        f"{one['settings_hash']} and {other['settings_hash']}; delete the one of settings that were changed"
                    )
            if seeds:
                trials = searched.get(row.name) or _grid(row, of_row[row.name])
                entries[row.name] = Entry(row.name, seeds, [*row.settings, *row.tune], sorted(trials, key=_valid, reverse=True))
        if entries:
            published = spec.published.get(heading, [])
            simple = spec.simple or [name for name, entry in entries.items() if entry.model in SIMPLE]
            metrics = _present(spec.metrics[dataset], entries, published)
            note, ranks = spec.notes.get(heading, ""), None if block else spec.ranks
            boards.append(Board(heading, entries, metrics, folder, simple, published, note, ranks))
    return Page(spec.name, spec.title, spec.about, boards, list(records))


def _present(metrics: Iterable[str], entries: dict[str, Entry], published: Sequence[dict[str, Any]]) -> list[str]:
    """A column needs a row that has it."""
    known = {name for row in published for name in row}
    known.update(name for entry in entries.values() for record in entry.records for name in record["test"])
    return [metric for metric in metrics if metric in known]


def _searched(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The trials of each row that was searched."""
    trials = defaultdict(list)
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            trial = json.loads(line)
            trials[trial["row"]].append(trial)
    return trials


def _grid(row: Row, records: Sequence[Record]) -> list[dict[str, Any]]:
    """The trials of a row whose candidates were all run, with the first seed."""
    return [
        {
            "tried": {key: record["settings"][key] for key in row.tune},
            "valid": valid_score(record),
            "epochs": record["epochs"],
            "seconds": training_s(record),
            "end": "complete",
        }
        for record in records
        if row.tune and record["seed"] == row.seeds[0]
    ]


def _valid(trial: dict[str, Any]) -> float:
    return -float("inf") if trial["valid"] is None else trial["valid"]


def _page_of_dataset(dataset: str, records: Sequence[Record], folder: Path) -> Page:
    """A board for each protocol, rows by validation score."""
    by_protocol: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        overrides = "".join(f", {key} = {value}" for key, value in record["protocol_overrides"].items())
        by_protocol[f"Protocol {record['protocol']}{overrides}"].append(record)
    about = "Runs of no benchmark, rows by validation score."
    boards = [_board_of_protocol(heading, found, folder) for heading, found in sorted(by_protocol.items())]
    return Page(dataset, dataset, about, boards, list(records))


def _board_of_protocol(heading: str, records: Sequence[Record], folder: Path) -> Board:
    """A row is a model with one kind of settings; where a model has several, its name says in what they differ."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        groups[record["model"], json.dumps(_settings(record), sort_keys=True)].append(record)
    entries = {}
    for (model, _), found in sorted(groups.items(), key=lambda group: -statistics.mean(map(valid_score, group[1]))):
        alike = [_settings(others[0]) for (name, _), others in groups.items() if name == model]
        mine = _settings(found[0])
        keys = [key for key in mine if any(other.get(key) != mine[key] for other in alike)]
        name = ", ".join([model, *(f"{key} = {mine[key]}" for key in keys)])
        name = name if name not in entries else f"{name} ({found[0]['settings_hash']})"
        entries[name] = Entry(name, found, keys)
    selecting = records[0]["settings"]["valid_metric"].lower()
    usual = [name for name in records[0]["test"] if name.startswith(("recall", "ndcg", "hit"))]
    metrics = list(dict.fromkeys([selecting, *usual]))[:5]
    simple = [name for name, entry in entries.items() if entry.model in SIMPLE]
    return Board(heading, entries, metrics, folder, simple)


def _settings(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record["settings"].items() if key not in _NOT_SETTINGS}


def rankings(pages: Sequence[Page]) -> dict[str, tuple[list[Board], Ranks]]:
    """By the name that specifications give (``ranks``): the boards, and the ranks of the rows that are on all of them.

    Two boards, and two rows on both, are needed.
    """
    groups: dict[str, list[Board]] = defaultdict(list)
    for page in pages:
        for board in page.boards:
            if board.ranks:
                groups[board.ranks].append(board)
    found = {}
    for name, boards in groups.items():
        shared = [row for row in boards[0].best_first() if all(row in board.best_first() for board in boards)]
        if len(boards) > 1 and len(shared) > 1:
            scores = [
                {row: statistics.mean(board.entries[row].scores(board.metric) or []) for row in shared} for board in boards
            ]
            found[name] = (boards, mean_ranks(scores))
    return found


def variants(record: Record) -> list[Record]:
    """A record, and one like it for each way to score that was tested as well (``test_also``)."""
    ways = record.get("test_also", [])
    return [record, *(record | way | {"settings": record["settings"] | way["settings"]} for way in ways)]


def valid_score(record: Record) -> float:
    """The validation score that chose the epoch."""
    return float(record["valid"][record["settings"]["valid_metric"].lower()])


def training_s(record: Record) -> float:
    """Seconds of training and validation, and of the training anew."""
    curves = [*record.get("curve", []), *(record.get("refit") or {"curve": []})["curve"]]
    return sum(entry["train_s"] + entry.get("eval_s", 0.0) for entry in curves)
