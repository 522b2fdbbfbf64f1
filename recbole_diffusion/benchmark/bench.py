"""Runs the rows of a specification.

Each run is a process of its own (``recbole-diffusion run``), so that its memory and its settings are its own and a crash ends
one run only. A run whose record is there is not run again; a killed one goes on from its last whole epoch. Several processes
may work on the same rows: a lock, which ends with its process, keeps two from the same run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_diffusion.adapter.config import build_config, check_dataset
from recbole_diffusion.benchmark.record import settings_hash, write_record
from recbole_diffusion.benchmark.spec import Row, Spec, slug, specs
from recbole_diffusion.settings import SettingsError


def keep_spec(given: str, name: str, folder: Path) -> None:
    """Puts a specification of the user's beside its records, so that the page can be made again without it."""
    if name not in specs():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(Path(given).read_text(encoding="utf-8"), encoding="utf-8")


class Bench:
    """Runs rows of a specification.

    Args:
        spec: what to run.
        data_path: folder of data sets; None: RecBole's own.
        results: folder of pages; records go to ``runs/`` in it.
        checkpoint_dir: folder of checkpoints and of the runs' output.
    """

    def __init__(self, spec: Spec, data_path: Path | None, results: Path, checkpoint_dir: Path) -> None:
        self.spec, self.results, self.checkpoint_dir = spec, results, checkpoint_dir
        self.data = {} if data_path is None else {"data_path": str(data_path)}

    def check(self, row: Row) -> None:
        """Refuses a row that cannot run, before anything runs."""
        for settings in row.trials():
            try:
                check_dataset(build_config(row.model, row.dataset, None, settings | self.data))
            except SettingsError as error:
                raise SettingsError(f"row {row.name!r}: {error}") from error

    def count(self, row: Row) -> tuple[int, int]:
        """Runs that are there and runs that are asked for, trials included."""
        trials = [self.record_file(row, settings, row.seeds[0]).exists() for settings in row.trials()] if row.tune else []
        best = self.best_trial(row) if all(trials) else None
        seeds = [best is not None and self.record_file(row, best, seed).exists() for seed in row.seeds]
        return sum(trials) + sum(seeds), len(trials) + len(seeds)

    def run(self, row: Row) -> Iterator[Path]:
        """Runs what is missing of a row; yields the output file of each run that failed."""
        if row.tune:
            failed = list(self._each(row, [(settings, row.seeds[0]) for settings in row.trials()], "trial"))
            yield from failed
            if failed:
                return
        best = self.best_trial(row)
        yield from self._each(row, [(best, seed) for seed in row.seeds], "seed")

    def _each(self, row: Row, runs: list[tuple[dict[str, Any], int]], role: str) -> Iterator[Path]:
        """Makes runs, each of settings and a seed; those that another process is making come last, and are waited for if
        they are trials: the best one is needed. Yields the output files of those that failed.
        """
        elsewhere = []
        for settings, seed in runs:
            try:
                log = self._run_one(row, settings, seed, role, timeout=0)
            except Timeout:
                print(f"{row.name}, seed {seed} ({role}): another process is running it", flush=True)
                elsewhere.append((settings, seed))
                continue
            if log is not None:
                yield log
        for settings, seed in elsewhere if role == "trial" else []:
            log = self._run_one(row, settings, seed, role, timeout=-1)
            if log is not None:
                yield log

    def best_trial(self, row: Row) -> dict[str, Any]:
        """The settings of the trial with the best validation score; without candidates, the row's."""
        trials = list(row.trials())
        if len(trials) == 1:
            return trials[0]

        def score(settings: dict[str, Any]) -> float:
            record = _read(self.record_file(row, settings, row.seeds[0]))
            return float(record["valid"][record["settings"]["valid_metric"].lower()])

        return max(trials, key=score)

    def record_file(self, row: Row, settings: dict[str, Any], seed: int) -> Path:
        """Where the record of a run is: a function of its settings."""
        config = build_config(row.model, row.dataset, None, settings | self.data | {"seed": seed})
        return self.results / "runs" / f"{self.spec.name}-{slug(row.name)}-{seed}-{settings_hash(config)}.json"

    def _run_one(self, row: Row, settings: dict[str, Any], seed: int, role: str, timeout: float) -> Path | None:
        """Runs once, unless the record is there; returns the output file if that failed.

        Args:
            timeout: seconds to wait for another process that is making the same run; -1: until it ends.

        Raises:
            Timeout: it is still at it.
        """
        file = self.record_file(row, settings, seed)
        log = self.checkpoint_dir / f"{file.stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(log.with_suffix(".lock"), timeout=timeout):
            return self._make(file, log, row, settings, seed, role)

    def _make(self, file: Path, log: Path, row: Row, settings: dict[str, Any], seed: int, role: str) -> Path | None:
        """What :meth:`_run_one` does once the lock is its own."""
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".running")
            given = settings | self.data | {"seed": seed, "checkpoint_dir": str(self.checkpoint_dir)}
            command = [sys.executable, "-m", "recbole_diffusion.cli", "run", f"--model={row.model}", f"--dataset={row.dataset}"]
            command += [f"--record={partial}", "--resume", "--show_progress=False"]
            command += [f"--{key}={value!r}" for key, value in given.items()]
            print(f"{row.name}, seed {seed} ({role}): running, output in {log}", flush=True)
            with open(log, "w", encoding="utf-8") as output:
                status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
            if status != 0:
                print(f"{row.name}, seed {seed} ({role}): failed with status {status}", flush=True)
                return log
            partial.rename(file)
        # The best trial is also a run of its row.
        record = _read(file)
        label = {"name": self.spec.name, "row": row.name, "role": role}
        if record.get("benchmark", {}).get("role") != "seed" and record.get("benchmark") != label:
            write_record(record | {"benchmark": label}, file)
        metric = record["settings"]["valid_metric"].lower()
        print(f"{row.name}, seed {seed} ({role}): valid {metric} {record['valid'][metric]:.4f}, "
              f"test {record['test'][metric]:.4f}, epoch {record['best_epoch']} of {record['epochs']}", flush=True)  # fmt: skip
        return None


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
