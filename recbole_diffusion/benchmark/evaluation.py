"""The test evaluation of a run: RecBole's metrics, the values of each user that they are means of, lists and cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.base_metric import TopkMetric
from recbole.utils import EvaluatorType

from recbole_diffusion.benchmark.record import masks_seen
from recbole_diffusion.settings import Settings, SettingsError, shortened

BEYOND_ACCURACY = ("ItemCoverage", "GiniIndex", "AveragePopularity", "ColdItemShare")
"""Computed at the test of every ranking run, whatever ``metrics`` says."""

_NAMES = tuple(f"{name.lower()}@" for name in BEYOND_ACCURACY)


@dataclasses.dataclass
class Tested:
    """What came of a test evaluation.

    Attributes:
        metrics: those that ``metrics`` asks for.
        beyond_accuracy: coverage, Gini index, popularity and cold share of the lists, by RecBole's name of the metric; empty
            where values and not rankings are evaluated.
        seconds: of the evaluation.
        scoring_ms: milliseconds for the scores of one row (a user, or of sequential models a history); None where only sampled
            candidates are scored.
        users: ids of the rows' users ``[rows]``.
        values: of each row ``[rows]``, by the metric's name: the one that selects, recall and NDCG.
        also: of each of ``test_also``'s ways to score, ``settings``, ``test``, ``beyond_accuracy``, ``scoring_ms`` and
            ``network_calls``.
        by_masking: metrics with the items that a user has had ``masked`` and ``unmasked``; empty where ``both_maskings`` does
            not ask for it. ``values`` has the second ranking's under ``<masked or unmasked>:<metric>``.
    """

    metrics: dict[str, float]
    beyond_accuracy: dict[str, float]
    seconds: float
    scoring_ms: float | None
    users: np.ndarray
    values: dict[str, np.ndarray]
    by_masking: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    also: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def evaluate_test(trainer: Any, train_data: Any, test_data: Any) -> Tested:
    """Evaluates the best model of a trainer on the test part.

    Args:
        trainer: has been trained.
        train_data: the loader that it was trained on; popularity is counted there.
        test_data: the loader of the test part.
    """
    config = trainer.config
    tested = _evaluate(trainer, train_data, test_data)
    if config["both_maskings"]:
        asked, masked = config["mask_seen"], bool(masks_seen(config.final_config_dict))
        config["mask_seen"] = not masked
        other = _evaluate(trainer, train_data, test_data)
        config["mask_seen"] = asked
        names = {True: "masked", False: "unmasked"}
        tested.by_masking = {names[masked]: tested.metrics, names[not masked]: other.metrics}
        tested.values |= {f"{names[not masked]}:{name}": values for name, values in other.values.items()}
    model, own = trainer.model, getattr(trainer.model, "settings", None)
    for changes, settings in ways_to_score(config):
        model.settings = settings
        found = _evaluate(trainer, train_data, test_data)
        tested.also.append(
            {
                "settings": changes,
                "test": found.metrics,
                "beyond_accuracy": found.beyond_accuracy,
                "scoring_ms": found.scoring_ms,
                "network_calls": getattr(model, "network_calls", None),
            }
        )
        model.settings = own
    return tested


def ways_to_score(config: Any) -> list[tuple[dict[str, Any], Settings]]:
    """The changes of each of ``test_also``'s ways to score, and the model's settings with them.

    Raises:
        SettingsError: not a list of mappings, a setting that training depends on, or a value out of range.
    """
    given = config["test_also"] or []
    if not isinstance(given, (list, tuple)) or not all(isinstance(changes, dict) and changes for changes in given):
        raise SettingsError(f"test_also = {shortened(given)}: must be a list of mappings, such as [{{'sampler_steps': 1}}]")
    kind = getattr(config.model_class, "settings_class", None)
    allowed = kind.scoring_keys() if kind is not None else []
    if unknown := sorted({key for changes in given for key in changes if key not in allowed}):
        names = ", ".join(allowed) or "none"
        raise SettingsError(
            f"test_also: {', '.join(map(str, unknown))}: not a setting of {config['model']}'s scoring; allowed: {names}"
        )
    return [(changes, kind.read(config.final_config_dict | changes)) for changes in given]


def _evaluate(trainer: Any, train_data: Any, test_data: Any) -> Tested:
    config = trainer.config
    ranks = config["eval_type"] == EvaluatorType.RANKING
    wanted = {"recall", "ndcg", config["valid_metric"].lower().split("@")[0]}
    asked = [metric.lower() for metric in config["metrics"]]
    with _metrics(config, [*config["metrics"], *(name for name in BEYOND_ACCURACY if ranks and name.lower() not in asked)]):
        trainer.evaluator = evaluator = _KeepingEvaluator(config)
        trainer.eval_collector = Collector(config)
    # The loader of knowledge-aware models has no `dataset`, which is all that is read here.
    trainer.eval_collector.data_collect(SimpleNamespace(dataset=train_data._dataset))
    trainer.scoring_s, started = 0.0, perf_counter()
    found = dict(trainer.evaluate(test_data, show_progress=config["show_progress"]) or {})
    seconds = perf_counter() - started
    users = _users_of_rows(test_data) if ranks else np.zeros(0, dtype=np.int64)
    full = ranks and config["eval_args"]["mode"]["test"] == "full"
    return Tested(
        metrics={name: value for name, value in found.items() if name.split("@")[0] in asked},
        beyond_accuracy={name: value for name, value in found.items() if name.startswith(_NAMES)},
        seconds=seconds,
        scoring_ms=1000 * trainer.scoring_s * config["nproc"] / len(users) if full else None,
        users=users,
        values={name: values for name, values in evaluator.values.items() if name.split("@")[0] in wanted},
    )


class _KeepingEvaluator(Evaluator):
    """RecBole's evaluator, which keeps what its top-k metrics take the mean of.

    Attributes:
        values: of each row ``[rows]``, by the metric's name with its k.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.values: dict[str, np.ndarray] = {}
        for metric in self.metric_class.values():
            if isinstance(metric, TopkMetric):
                metric.topk_result = self._keeping(metric, metric.topk_result)

    def _keeping(self, metric: Any, original: Any) -> Any:
        """``TopkMetric.topk_result``, which is given the values of all rows at every rank, ``[rows, max(topk)]``."""

        def topk_result(name: str, value: np.ndarray) -> dict[str, float]:
            self.values |= {f"{name}@{k}": value[:, k - 1].astype(np.float32) for k in metric.topk}
            return original(name, value)

        return topk_result


@contextmanager
def _metrics(config: Any, names: list[str]) -> Iterator[None]:
    """What the evaluator and the collector read when they are made."""
    before = config["metrics"]
    config["metrics"] = names
    try:
        yield
    finally:
        config["metrics"] = before


def _users_of_rows(loader: Any) -> np.ndarray:
    """The user of each row that is evaluated, in order: RecBole evaluates users, of sequential models every target."""
    if hasattr(loader, "uid_list"):
        return np.asarray(loader.uid_list)
    dataset = loader._dataset
    return dataset.inter_feat[dataset.uid_field].numpy()
