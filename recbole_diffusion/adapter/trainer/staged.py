"""The trainer of models that are trained in stages: ADRec, BBDRec, and DreamRec where its embeddings are pre-trained."""

from __future__ import annotations

import math
from typing import Any

from recbole.trainer import Trainer

from recbole_diffusion.settings import SettingsError


class StagedTrainer(Trainer):
    """RecBole's trainer, which tells the model when an epoch begins, and selects among the epochs of the last stage.

    A stage begins with a new optimiser state. Evaluations in an earlier stage neither end the training nor count for the
    selection, and leave no score in the curve. All of this follows from the number of the epoch, so that a run that is
    resumed needs nothing more than RecBole's state.

    Raises:
        SettingsError: several processes and stages: the processes would wait for gradients of what a stage leaves out.
    """

    def __init__(self, config: Any, model: Any) -> None:
        if not config["single_spec"] and model.early_epochs > 0:
            raise SettingsError(f"nproc = {config['nproc']!r}: {config['model']} is trained in stages; allowed: 1")
        super().__init__(config, model)

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


# Under the names that RecBole looks for.
class ADRecTrainer(StagedTrainer):
    """ADRec's."""


class BBDRecTrainer(StagedTrainer):
    """BBDRec's."""


class DreamRecTrainer(StagedTrainer):
    """DreamRec's, which has a single stage unless ``pretrain_epochs`` asks for another."""
