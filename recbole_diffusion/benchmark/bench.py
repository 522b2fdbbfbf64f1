"""Runs what is missing of a specification.

Each run is a process of its own (``recbole-diffusion run``), so that its memory and its settings are its own and a crash ends
one run only. A run whose record is there is not run again; a killed one goes on from its last whole epoch. Several processes
may work on the same rows: a lock, which ends with its process, keeps two from the same run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_diffusion.benchmark.plan import Plan, read_record, seconds_of, valid_score
from recbole_diffusion.benchmark.progress import Progress
from recbole_diffusion.benchmark.record import write_record
from recbole_diffusion.benchmark.spec import Row, specs
from recbole_diffusion.benchmark.workers import STOPPED, Task, Workers

_FAILED = 1  # exit status of a run that diverged or met a bug: its settings' fault. Any other is its surroundings'.


def keep_spec(given: str, name: str, folder: Path) -> None:
    """Puts a specification of the user's beside its records, so that the page can be made again without it."""
    if name not in specs():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(Path(given).read_text(encoding="utf-8"), encoding="utf-8")


class Bench:
    """Runs rows of a plan, side by side as far as there are workers.

    Args:
        plan: what there is and what is missing.
        workers: who makes the runs.
        trust_pickle: whether runs may read pickled data sets and models.
    """

    def __init__(self, plan: Plan, workers: Workers, trust_pickle: bool = False) -> None:
        self.plan, self.workers, self.trust_pickle = plan, workers, trust_pickle
        plan.runs.mkdir(parents=True, exist_ok=True)
        plan.checkpoint_dir.mkdir(parents=True, exist_ok=True)

    def run(self, rows: Sequence[Row]) -> list[Path]:
        """Runs what is missing; returns the output file of each run that failed."""
        self._progress = Progress(self.plan, rows, self.workers.jobs)
        # A thread for each row waits for its trials before it asks for its seeds; the workers do the work.
        with ThreadPoolExecutor(len(rows)) as threads:
            try:
                return [file for failed in threads.map(self._run_row, rows) for file in failed]
            except BaseException:
                self.workers.stop()
                raise

    def _run_row(self, row: Row) -> list[Path]:
        failed = self._search(row) if row.search is not None else self._run_grid(row)
        best = self.plan.best(row) if not failed else None
        if best is None:
            return failed
        return self._run_all(row, [self._task(row, best, seed, "seed") for seed in row.seeds], wait=False)

    def _run_grid(self, row: Row) -> list[Path]:
        trials = row.trials() if row.tune else ()
        # The best one has to be known, so trials that another process makes are waited for.
        return self._run_all(row, [self._task(row, settings, row.seeds[0], "trial") for settings in trials], wait=True)

    def _run_all(self, row: Row, tasks: list[Task], wait: bool) -> list[Path]:
        """Makes the runs that are not there; those that another process is making come last, and only with ``wait``."""
        failed, elsewhere = [], []
        for task in [task for task in tasks if task.record.exists()]:
            self._label(row, task)
        for task, future in [(task, self.workers.submit(task)) for task in tasks if not task.record.exists()]:
            status = future.result()
            if status is None:
                print(f"{task.name}: another process is running it", flush=True)
                elsewhere.append(task)
            elif status != 0:
                failed.append(self._say_failed(task, status))
            else:
                self._say_made(row, task)
        for task in elsewhere if wait else []:
            status = self._wait_for(task)
            if status != 0:
                failed.append(self._say_failed(task, status))
            else:
                self._say_made(row, task)
        return failed

    def _search(self, row: Row) -> list[Path]:
        """Makes the trials of a search, one after the other; a trial that diverges is a trial."""
        search, log = self.plan.search(row), None
        self._progress.add(row, len(search.trials()))
        while not search.ended(trials := search.trials()):
            tried = search.ask(trials)
            orders = search.orders(trials)
            task = self._task(row, row.settings | tried, row.seeds[0], "trial", f"{search.name}-{len(trials)}", orders)
            status = self.workers.submit(task).result()
            if status is None:
                print(f"{task.name}: another process is running it", flush=True)
                with FileLock(task.lock):
                    continue  # it has ended, or was killed
            if status == 0:
                record = read_record(task.record)
                search.add(len(trials), tried, "complete", record["curve"], valid_score(record))
                self._say_made(row, task)
            elif status == STOPPED:
                try:
                    left = json.loads(task.stopped.read_text(encoding="utf-8"))
                except FileNotFoundError:
                    continue  # another process has added it
                search.add(len(trials), tried, left["end"], left["curve"], None)
                task.stopped.unlink(missing_ok=True)
                self._progress.add(row)
                self._say(f"{task.name}: {left['end']} after {len(left['curve'])} epochs")
            elif status == _FAILED:
                log = self._say_failed(task, status)
                search.add(len(trials), tried, "failed", [], None)
                self._progress.add(row)
            else:
                return [self._say_failed(task, status)]
        self.plan.write_trials()
        return [log] if log is not None and search.best(search.trials()) is None else []

    def _wait_for(self, task: Task) -> int:
        """Waits for the process that is making a run; makes it if that one has not."""
        while True:
            with FileLock(task.lock):
                pass
            status = self.workers.submit(task).result()
            if status is not None:
                return status

    def _label(self, row: Row, task: Task) -> dict[str, Any]:
        """Writes into a record what it is of the page; returns it."""
        with FileLock(task.lock):
            record = read_record(task.record)
            # The best trial is also a run of its row.
            label = {"name": self.plan.spec.name, "row": row.name, "role": task.role}
            if record.get("benchmark", {}).get("role") != "seed" and record.get("benchmark") != label:
                record |= {"benchmark": label}
                write_record(record, task.record)
        self._progress.add(row)
        return record

    def _say_made(self, row: Row, task: Task) -> None:
        record = self._label(row, task)
        self._progress.learn(row, seconds_of(record))
        metric = record["settings"]["valid_metric"].lower()
        self._say(
            f"{task.name}: valid {metric} {valid_score(record):.4f}, test {record['test'][metric]:.4f}, "
            f"epoch {record['best_epoch']} of {record['epochs']}"
        )

    def _say(self, text: str) -> None:
        print(f"[{self._progress}] {text}", flush=True)

    @staticmethod
    def _say_failed(task: Task, status: int) -> Path:
        print(f"{task.name}: failed with status {status}", flush=True)
        return task.log

    def _task(
        self, row: Row, settings: dict[str, Any], seed: int, role: str, trial: str = "", trial_orders: Any = None
    ) -> Task:
        """A run.

        Args:
            trial: name of a trial of a search.
            trial_orders: for it, see :meth:`Search.orders`.
        """
        plan = self.plan
        record = plan.record_file(row, settings, seed)
        partial, folder = record.with_suffix(".running"), plan.checkpoint_dir
        stopped = folder / f"{trial or record.stem}.stopped"
        given = settings | plan.data | {"seed": seed, "checkpoint_dir": str(folder)}
        arguments = [f"--model={row.model}", f"--dataset={row.dataset}", f"--record={partial}", "--resume"]
        arguments += ["--trust-pickle"] if self.trust_pickle else []
        arguments += ["--show_progress=False", *(f"--{key}={value!r}" for key, value in given.items())]
        # Rows with the same settings have the same checkpoint.
        checkpoint = f"{row.model}-{row.dataset}-{plan.settings_hash(row, settings, seed)}"
        orders = {"lock": str(folder / f"{checkpoint}.lock"), "trial": trial_orders, "stopped": str(stopped)}
        return Task(
            name=f"{row.name}, seed {seed} ({role})",
            role=role,
            arguments=tuple(arguments),
            orders=orders,
            folder=Path.cwd(),
            record=record,
            partial=partial,
            stopped=stopped,
            log=folder / f"{record.stem}.log",
            lock=folder / f"{record.stem}.lock",
            threads=self.workers.threads,
        )
