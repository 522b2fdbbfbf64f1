"""The trainer of models that are trained in stages: ADRec, BBDRec."""

from __future__ import annotations

import math
from typing import Any

from recbole.trainer import Trainer


class ADRecTrainer(Trainer):
    """RecBole's trainer, which tells the model when an epoch begins, and selects among the epochs of the last stage.

    A stage begins with a new optimiser state. Evaluations in an earlier stage neither end the training nor count for the
    selection, and leave no score in the curve. All of this follows from the number of the epoch, so that a run that is
    resumed needs nothing more than RecBole's state.
    """

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        begins = self.model.begin_epoch(epoch_idx)
        if begins:
            self.optimizer.state.clear()
        if begins or not self.model.fine_tunes:
            self.cur_step = 0
            self.best_valid_score = -math.inf if self.valid_metric_bigger else math.inf
            for entry in getattr(self, "curve", []):
                entry.pop("valid_score", None)
        return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)


class BBDRecTrainer(ADRecTrainer):
    """The same under the name that RecBole looks for."""
