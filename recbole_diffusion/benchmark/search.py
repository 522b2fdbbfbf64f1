"""Search among settings with optuna: a TPE sampler, and a median pruner on the validation scores by epoch.

A study holds the trials that have ended, in SQLite. What a trial tries depends on its number and on the trials before it
alone: the trials of a row follow each other, and each has a sampler with a seed of its own. So nothing has to be kept of a
trial that runs: after a kill the same one is asked for again, and its run goes on from its last whole epoch. (optuna's
heartbeat would count it as failed and draw another.) Rows are searched side by side; processes that share a row take turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_diffusion.adapter.trainer.tracked import Tracked
from recbole_diffusion.benchmark.spec import Row
from recbole_diffusion.settings import SettingsError

_UNINFORMED = 4  # trials that are drawn at random and run to their end, before there is a median to be below of


class Search:
    """The search of one row.

    Args:
        row: with a budget.
        name: of the study; other settings or candidates need another one.
        file: SQLite file of a benchmark's studies.
        lock: file to lock while the studies are read or changed.
        default: the row's own values of what is tuned; those among the candidates are the first trial's.
        bigger: whether a bigger validation score is better.

    Raises:
        SettingsError: optuna is not installed.
    """

    def __init__(self, row: Row, name: str, file: Path, lock: Path, default: dict[str, Any], bigger: bool) -> None:
        assert row.search is not None
        self.row, self.name, self.file, self.lock, self.bigger = row, name, file, lock, bigger
        self._budget, self._default, self._combinations = row.search, default, row.combinations()
        self._optuna = _import_optuna()
        self._distributions = {key: self._distribution(candidates) for key, candidates in row.tune.items()}

    def trials(self) -> list[Any]:
        """optuna's trials, those that have ended, in order."""
        if not self.file.exists():
            return []
        with FileLock(self.lock):
            return list(self._study.trials)

    def asked(self) -> int:
        """How many trials there are to be, if time does not end the search."""
        return self._budget.trials if self._combinations is None else len(self._combinations)

    def ended(self, trials: Sequence[Any]) -> bool:
        """Whether the budget is spent. Time ends a search only when there is a trial to choose."""
        seconds = self._seconds_left(trials)
        return len(trials) >= self.asked() or (seconds is not None and seconds <= 0)

    def ask(self, trials: Sequence[Any]) -> dict[str, Any]:
        """What the trial after these tries, by setting."""
        seed = 1000 * self.row.seeds[0] + len(trials)
        sampler = self._optuna.samplers.TPESampler(n_startup_trials=_UNINFORMED, seed=seed)
        study = self._optuna.create_study(direction=self._direction, sampler=sampler)  # in memory
        study.add_trials(trials)
        if self._combinations is not None:
            tried = [trial.params for trial in trials]
            study.enqueue_trial(next(one for one in map(self._stored, self._combinations) if one not in tried))
        elif not trials:
            study.enqueue_trial(self._stored({key: self._default[key] for key in self.row.tune if self._may_be_tried(key)}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a default between the steps of a range is drawn like the others
            return self._tried(study.ask(self._distributions).params)

    def orders(self, trials: Sequence[Any]) -> dict[str, Any]:
        """For :func:`watched`: what the next trial is compared with, and how long it may take."""
        complete = [trial for trial in trials if _is_complete(trial)]
        return {
            "bigger": self.bigger,
            "earlier": [trial.intermediate_values for trial in complete],
            "seconds": self._seconds_left(trials),
        }

    def add(self, number: int, tried: dict[str, Any], end: str, curve: list[dict[str, Any]], valid: float | None) -> None:
        """Adds a trial that has ended, unless another process has done so.

        Args:
            number: how many there were before it.
            tried: see :meth:`ask`.
            end: ``complete``, ``pruned`` (below the median), ``cut`` (no time left) or ``failed``.
            curve: of its training.
            valid: validation score of the chosen epoch; None unless complete.
        """
        states = self._optuna.trial.TrialState
        trial = self._optuna.trial.create_trial(
            state={"complete": states.COMPLETE, "failed": states.FAIL}.get(end, states.PRUNED),
            value=valid,
            params=self._stored(tried),
            distributions=self._distributions,
            intermediate_values={entry["epoch"]: entry["valid_score"] for entry in curve if "valid_score" in entry},
            user_attrs={"end": end, "epochs": len(curve), "seconds": curve_seconds(curve)},
        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.lock):
            if len(self._study.trials) == number:
                self._study.add_trial(trial)

    def best(self, trials: Sequence[Any]) -> dict[str, Any] | None:
        """What the best trial on validation tried, the first of equal ones; None if no trial ran to its end."""
        complete = [trial for trial in trials if _is_complete(trial)]
        choose = max if self.bigger else min
        return self._tried(choose(complete, key=lambda trial: trial.value).params) if complete else None

    def table(self, trials: Sequence[Any]) -> list[dict[str, Any]]:
        """The trials as plain data; ``valid`` of a trial that was stopped is its best score until then."""
        choose = max if self.bigger else min
        return [
            {
                "row": self.row.name,
                "trial": number,
                "end": trial.user_attrs["end"],
                "tried": self._tried(trial.params),
                "valid": choose(trial.intermediate_values.values(), default=None) if trial.value is None else trial.value,
                "epochs": trial.user_attrs["epochs"],
                "seconds": round(trial.user_attrs["seconds"], 2),
            }
            for number, trial in enumerate(trials)
        ]

    @property
    def _direction(self) -> str:
        return "maximize" if self.bigger else "minimize"

    @cached_property
    def _study(self) -> Any:
        storage = self._optuna.storages.RDBStorage(f"sqlite:///{self.file.absolute()}")
        return self._optuna.create_study(
            storage=storage, study_name=self.name, direction=self._direction, load_if_exists=True
        )

    def _seconds_left(self, trials: Sequence[Any]) -> float | None:
        if self._budget.minutes is None or not any(map(_is_complete, trials)):
            return None
        return 60.0 * self._budget.minutes - sum(trial.user_attrs["seconds"] for trial in trials)

    def _distribution(self, candidates: Any) -> Any:
        kinds = self._optuna.distributions
        if isinstance(candidates, list):
            return kinds.CategoricalDistribution([json.dumps(value) for value in candidates])
        low, high, log, step = (candidates.get(key) for key in ("low", "high", "log", "step"))
        if isinstance(low, int) and isinstance(high, int):
            return kinds.IntDistribution(low, high, log=bool(log), step=step or 1)
        return kinds.FloatDistribution(low, high, log=bool(log), step=step)

    def _may_be_tried(self, key: str) -> bool:
        candidates, value = self.row.tune[key], self._default[key]
        if isinstance(candidates, list):
            return value in candidates
        return isinstance(value, (int, float)) and candidates["low"] <= value <= candidates["high"]

    # A study keeps numbers and words; a candidate may be a list, so candidates are kept as JSON.
    def _stored(self, tried: dict[str, Any]) -> dict[str, Any]:
        return {key: json.dumps(value) if isinstance(self.row.tune[key], list) else value for key, value in tried.items()}

    def _tried(self, stored: dict[str, Any]) -> dict[str, Any]:
        given = {key: json.loads(stored[key]) if isinstance(self.row.tune[key], list) else stored[key] for key in stored}
        return {key: given[key] for key in self.row.tune}


def _is_complete(trial: Any) -> bool:
    return trial.user_attrs["end"] == "complete"


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SettingsError("search needs optuna: pip install 'recbole_diffusion[benchmark]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def curve_seconds(curve: Sequence[dict[str, Any]]) -> float:
    """Seconds of training and validation."""
    return sum(entry["train_s"] + entry.get("eval_s", 0.0) for entry in curve)


class StoppedEarly(Exception):
    """A trial that is not worth going on with."""


@contextlib.contextmanager
def watched(orders: dict[str, Any] | None, stopped: Path | None) -> Iterator[None]:
    """Stops the trainings inside when they are below the median of the earlier trials, or have no time left.

    Args:
        orders: see :meth:`Search.orders`; None watches nothing.
        stopped: file for how and when the training was stopped.

    Raises:
        StoppedEarly: it was. Its checkpoint and its state are gone.
    """
    if orders is None or stopped is None:
        yield
        return
    optuna = _import_optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNINFORMED)
    study = optuna.create_study(direction="maximize" if orders["bigger"] else "minimize", pruner=pruner)
    for scores in orders["earlier"]:
        by_epoch = {int(epoch): score for epoch, score in scores.items()}
        study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=by_epoch))
    trial, reported = study.ask(), set()

    def watch(trainer: Any) -> None:
        if getattr(trainer.model, "fine_tunes", True):  # scores of an earlier stage do not count (ADRec)
            for entry in trainer.curve:
                if "valid_score" in entry and entry["epoch"] not in reported:
                    trial.report(entry["valid_score"], entry["epoch"])
                    reported.add(entry["epoch"])
        if reported and trial.should_prune():
            stop("pruned", trainer)
        if orders["seconds"] is not None and curve_seconds(trainer.curve) > orders["seconds"]:
            stop("cut", trainer)

    def stop(end: str, trainer: Any) -> None:
        partial = stopped.with_name(f"{stopped.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps({"end": end, "curve": trainer.curve}), encoding="utf-8")
        os.replace(partial, stopped)
        for file in (trainer.state_file, trainer.saved_model_file):
            if file is not None:
                Path(file).unlink(missing_ok=True)
        raise StoppedEarly(f"{end} after epoch {trainer.curve[-1]['epoch']}")

    Tracked.watcher = watch
    try:
        yield
    finally:
        Tracked.watcher = None
