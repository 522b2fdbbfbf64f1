"""Metrics beside RecBole's, under the names that ``metrics`` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.evaluator import register as recbole_register
from recbole.evaluator.base_metric import AbstractMetric
from recbole.utils import EvaluatorType


class ColdItemShare(AbstractMetric):
    """ColdItemShare@k: the share of the recommended items that are no training interaction's item, mean over users.

    A model that learns embeddings knows nothing of such items: what it recommends of them is chance. Like RecBole's own
    ``AveragePopularity`` it needs the training data, which RecBole hands over in ``fit`` only.
    """

    metric_type = EvaluatorType.RANKING
    smaller = True
    metric_need = ["rec.items", "data.count_items"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.topk = config["topk"]

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """``{"colditemshare@k": share}`` for every k of ``topk``."""
        recommended = dataobject.get("rec.items").numpy()
        cold = ~np.isin(recommended, list(dataobject.get("data.count_items")))
        return {f"colditemshare@{k}": round(float(cold[:, :k].mean()), self.decimal_place) for k in self.topk}


def install() -> None:
    """Makes RecBole's evaluator know these metrics."""
    for metric in (ColdItemShare,):
        name = metric.__name__.lower()
        recbole_register.metrics_dict[name] = metric
        recbole_register.metric_information[name] = metric.metric_need
        recbole_register.metric_types[name] = metric.metric_type
        if metric.smaller and name not in recbole_register.smaller_metrics:
            recbole_register.smaller_metrics.append(name)
