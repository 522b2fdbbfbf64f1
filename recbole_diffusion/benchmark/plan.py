"""What a specification asks for, what of it is there, and how long the rest will take."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.adapter.config import build_config, check_dataset
from recbole_diffusion.benchmark.record import settings_hash
from recbole_diffusion.benchmark.search import Search, curve_seconds
from recbole_diffusion.benchmark.spec import Row, Spec, slug
from recbole_diffusion.settings import SettingsError


class Plan:
    """The runs of a specification, and their files.

    Args:
        spec: what to run.
        data_path: folder of data sets; None: RecBole's own.
        results: folder of pages; records go to ``runs/`` in it.
        checkpoint_dir: folder of checkpoints and of the runs' output.
    """

    def __init__(self, spec: Spec, data_path: Path | None, results: Path, checkpoint_dir: Path) -> None:
        self.spec, self.runs, self.checkpoint_dir = spec, results / "runs", checkpoint_dir
        self.data = {} if data_path is None else {"data_path": str(data_path)}
        self._configs: dict[str, Any] = {}
        self._searches: dict[str, Search] = {}
        self._one_at_a_time = threading.RLock()

    def check(self, row: Row) -> None:
        """Refuses a row that cannot run, before anything runs."""
        try:
            for settings in row.examples():
                check_dataset(self.config(row, settings, row.seeds[0]))
            if row.search is not None:
                self.search(row)
        except SettingsError as error:
            raise SettingsError(f"row {row.name!r}: {error}") from error

    def count(self, row: Row) -> tuple[int, int]:
        """Runs that are there and runs that are asked for, trials included."""
        best = self.best(row)
        seeds = sum(best is not None and self.record_file(row, best, seed).exists() for seed in row.seeds)
        there, asked = 0, 0
        if row.search is not None:
            search = self.search(row)
            trials = search.trials()
            there, asked = len(trials), len(trials) if search.ended(trials) else search.asked()
        elif row.tune:
            records = [self.record_file(row, settings, row.seeds[0]) for settings in row.trials()]
            there, asked = sum(file.exists() for file in records), len(records)
        return there + seeds, asked + len(row.seeds)

    def best(self, row: Row) -> dict[str, Any] | None:
        """The settings of the trial that is best on validation, without candidates the row's; None where not all are there."""
        if not row.tune:
            return row.settings
        if row.search is not None:
            search = self.search(row)
            trials = search.trials()
            found = search.best(trials) if search.ended(trials) else None
            return None if found is None else row.settings | found
        candidates = list(row.trials())
        files = [self.record_file(row, settings, row.seeds[0]) for settings in candidates]
        if not all(file.exists() for file in files):
            return None
        scores = [valid_score(read_record(file)) for file in files]
        choose = max if self.config(row, candidates[0], row.seeds[0])["valid_metric_bigger"] else min
        return candidates[scores.index(choose(scores))]

    def search(self, row: Row) -> Search:
        """The search of a row that has one.

        Raises:
            SettingsError: optuna is not installed.
        """
        if row.name in self._searches:
            return self._searches[row.name]
        config = self.config(row, row.settings, row.seeds[0])
        identity = json.dumps([settings_hash(config), row.tune], sort_keys=True)
        name = f"{slug(row.name)}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"
        default = {key: config[key] for key in row.tune}
        file, lock = self.runs / f"{self.spec.name}.sqlite", self.checkpoint_dir / f"{self.spec.name}.sqlite.lock"
        self._searches[row.name] = Search(row, name, file, lock, default, config["valid_metric_bigger"])
        return self._searches[row.name]

    def write_trials(self) -> None:
        """Writes ``runs/<specification>.trials.jsonl``: a line for each trial of each search."""
        with self._one_at_a_time:
            searches = [self.search(row) for row in self.spec.rows if row.search is not None]
            lines = [json.dumps(trial) for search in searches for trial in search.table(search.trials())]
            file = self.runs / f"{self.spec.name}.trials.jsonl"
            partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
            partial.write_text("\n".join([*lines, ""]), encoding="utf-8")
            os.replace(partial, file)

    def seconds_of_a_run(self, rows: Sequence[Row]) -> dict[str, float]:
        """Mean seconds of training and evaluation by row, from the records of the row, else of its model on its data set.

        A row that has neither is left out.
        """
        of_row, of_model = defaultdict(list), defaultdict(list)
        for file in sorted(self.runs.glob("*.json")):
            record = read_record(file)
            seconds = seconds_of(record)
            of_model[record["model"], record["dataset"]].append(seconds)
            label = record.get("benchmark", {})
            if label.get("name") == self.spec.name:
                of_row[label["row"]].append(seconds)
        known = {row.name: of_row[row.name] or of_model[row.model, row.dataset] for row in rows}
        return {name: statistics.mean(seconds) for name, seconds in known.items() if seconds}

    def record_file(self, row: Row, settings: dict[str, Any], seed: int) -> Path:
        """Where the record of a run is: a function of its settings."""
        return self.runs / f"{self.spec.name}-{slug(row.name)}-{seed}-{self.settings_hash(row, settings, seed)}.json"

    def settings_hash(self, row: Row, settings: dict[str, Any], seed: int) -> str:
        """The name of a run's settings, as in its record."""
        return settings_hash(self.config(row, settings, seed))

    def config(self, row: Row, settings: dict[str, Any], seed: int) -> Any:
        """RecBole's configuration of a run."""
        given = settings | self.data | {"seed": seed}
        key = repr((row.model, row.dataset, given))
        with self._one_at_a_time:  # RecBole's Config reads sys.argv, which we have to change for that long
            if key not in self._configs:
                self._configs[key] = build_config(row.model, row.dataset, None, given)
            return self._configs[key]


def read_record(file: Path) -> dict[str, Any]:
    """A record, as plain data."""
    return json.loads(file.read_text(encoding="utf-8"))


def valid_score(record: dict[str, Any]) -> float:
    """The validation score that chose the epoch."""
    return float(record["valid"][record["settings"]["valid_metric"].lower()])


def seconds_of(record: dict[str, Any]) -> float:
    """Seconds of training, of training anew, and of evaluation."""
    refit = (record.get("refit") or {}).get("curve", [])
    return curve_seconds(record["curve"]) + curve_seconds(refit) + (record["eval_s"]["test"] or 0.0)
