"""ADRec: "Unlocking the Power of Diffusion Models in Sequential Recommendation", KDD 2025."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from recbole_diffusion.diffusion.objective import squared_error
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy
from recbole_diffusion.model.sequential_recommender.denoising import DenoisingRecommender, DenoisingSettings
from recbole_diffusion.model.sequential_recommender.diffurec import GaussianDenoising, GaussianSettings
from recbole_diffusion.model.sequential_recommender.transformer import Layer
from recbole_diffusion.settings import setting


@dataclasses.dataclass(frozen=True)
class StagedSettings(DenoisingSettings):
    """Also of how many epochs the stages are, the weight of the diffusion's loss, and the layers of the encoder."""

    pretrain_epochs: int = setting(ge=0)
    frozen_epochs: int = setting(ge=0)
    loss_scale: float = setting(ge=0)
    n_encoder_layers: int = setting(ge=1)


class StagedDenoising(DenoisingRecommender):
    """A causal encoder of the history before the denoiser, two losses, and three stages of training.

    The stage is a function of the epoch (:meth:`begin_epoch`, which adapter/trainer/staged.py calls):

    1. ``pretrain_epochs``: item embeddings are trained with the encoder alone, by cross-entropy, as a SASRec without positions;
    2. ``frozen_epochs``: the embeddings do not move, and encoder and denoiser are trained from their initial weights;
    3. all the rest: everything is trained.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings
        self.encoder = nn.ModuleList(
            Layer(s.hidden_size, s.n_heads, s.inner_size, s.hidden_dropout_prob, s.attn_dropout_prob, s.hidden_act, False, 1e-5)
            for _ in range(s.n_encoder_layers)
        )
        self.pretrains = self.frozen = False
        if config["epochs"] <= self.early_epochs:
            self.logger.warning(
                f"epochs = {config['epochs']}: {type(self).__name__} fine-tunes after pretrain_epochs + frozen_epochs = "
                f"{self.early_epochs} epochs only; what is trained here is not the model"
            )

    @property
    def early_epochs(self) -> int:
        """Epochs before the last stage of training."""
        return self.settings.pretrain_epochs + self.settings.frozen_epochs

    def begin_epoch(self, epoch: int) -> bool:
        """Enters the stage of an epoch, counted from 0.

        Returns:
            Whether it is the first epoch of a stage that has another one before it.
        """
        s = self.settings
        self.pretrains, self.frozen = epoch < s.pretrain_epochs, s.pretrain_epochs <= epoch < self.early_epochs
        if epoch == s.pretrain_epochs > 0:
            for module in (*self.encoder.modules(), *self.history_input.modules()):
                if isinstance(module, (nn.Linear, nn.LayerNorm)):
                    module.reset_parameters()
        return epoch in {s.pretrain_epochs, self.early_epochs} - {0}

    @property
    def fine_tunes(self) -> bool:
        """Whether the stage is the last one."""
        return not (self.pretrains or self.frozen)

    @property
    def items(self) -> torch.Tensor:
        weight = self.item_embedding.weight
        return weight.detach() if self.frozen else weight

    def encode(self, items: torch.Tensor) -> torch.Tensor:
        """The history up to every position, by self-attention without positions."""
        z = super().encode(items)
        for layer in self.encoder:
            z = layer(z)
        return z

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        if not self.pretrains:
            return super().calculate_loss(interaction)
        items, targets = self.grid_of(interaction)
        return item_cross_entropy(self.encode(items)[targets > 0], self.items, targets[targets > 0])

    def denoising_loss(
        self, estimate: torch.Tensor, target: torch.Tensor, x_0: torch.Tensor, row: torch.Tensor, n_rows: int
    ) -> torch.Tensor:
        """Cross-entropy over targets, and ``loss_scale`` times the squared error, mean over d, a row's targets, and rows."""
        share = 1 / (torch.bincount(row, minlength=n_rows)[row] * n_rows)
        error = (squared_error(estimate, x_0) * share).sum() / estimate.shape[1]
        return item_cross_entropy(estimate, self.items, target) + self.settings.loss_scale * error


@dataclasses.dataclass(frozen=True)
class ADRecSettings(StagedSettings, GaussianSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/ADRec.yaml``."""


class ADRec(StagedDenoising, GaussianDenoising):
    """ADRec (KDD 2025): every position's next item has noise of its own level, and a causal Transformer denoises them all.

    A causal Transformer encodes the history; to its output at each position a thousandth of the noisy next item is added, at a
    level drawn for that position; a second causal Transformer estimates the next items. Loss: cross-entropy over all items
    plus the squared error of the embedding, whose gradients also move the target. Three stages of training
    (:class:`StagedDenoising`). Scoring: the reverse process at the last position, beside clean items at the earlier
    ones; one pass is the same up to O(``lambda_noise``) (``sampler: one_pass``; ``diagnostics()``).

    Departures from the official code: the noise of the reverse process has the posterior's variance and depends on seed and
    history alone; histories are padded on the right, where nothing attends to the padding; pre-training is part of the run
    and of a fixed number of epochs; the learning rate is constant and there is no PCGrad (off there) and no guidance
    (its scale is 1 there). The padding item is not ranked. Sequences longer than a window are cut into windows. The initial
    item embeddings are small (``initializer_range``: .02, as in SASRec), without which pre-training takes far longer.
    """

    settings_class = ADRecSettings
