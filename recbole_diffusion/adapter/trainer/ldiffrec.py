"""L-DiffRec's trainer: the autoencoder and the denoiser learn at different rates."""

from __future__ import annotations

from typing import Any

import torch
from recbole.trainer import Trainer


class LDiffRecTrainer(Trainer):
    """RecBole's trainer with two parameter groups: the autoencoder at ``learning_rate``, the denoiser at its own."""

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        groups = [
            {"params": list(self.model.autoencoder.parameters())},
            {"params": list(self.model.network.parameters()), "lr": self.model.settings.denoiser_learning_rate},
        ]
        return super()._build_optimizer(**{"params": groups, **kwargs})


class LTDiffRecTrainer(LDiffRecTrainer):
    """The same under the name that RecBole looks for."""
