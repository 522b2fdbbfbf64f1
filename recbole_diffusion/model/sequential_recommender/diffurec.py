"""DiffuRec: Li et al., "DiffuRec: A Diffusion Model for Sequential Recommendation", ACM TOIS 2024."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.process import Denoiser, GaussianDiffusion
from recbole_diffusion.diffusion.samplers import Grid, ddim
from recbole_diffusion.diffusion.schedule import SCHEDULES, make_betas
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy
from recbole_diffusion.model.sequential_recommender.denoising import DenoisingRecommender, DenoisingSettings
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class GaussianSettings(DenoisingSettings):
    """Also which Gaussian diffusion."""

    noise_schedule: str = setting(choices=tuple(SCHEDULES))
    beta_start: float = setting(gt=0, lt=1)
    beta_end: float = setting(gt=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.betas()

    def betas(self) -> torch.Tensor:
        """The schedule, ``[steps]``."""
        try:
            return make_betas(self.noise_schedule, self.steps, self.beta_start, self.beta_end)
        except ValueError as error:
            raise SettingsError(f"noise_schedule = {self.noise_schedule!r}: {error}") from error


class GaussianDenoising(DenoisingRecommender):
    """A denoising recommender with Gaussian diffusion."""

    settings_class = GaussianSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.process = GaussianDiffusion(self.settings.betas())

    def noised(self, x_0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return self.process.q_sample(x_0, t, eps)

    def reverse(self, denoise: Denoiser, state: torch.Tensor, grid: Grid, noise: Noise) -> torch.Tensor:
        """From noise; DDIM with eta = 1, which over every step is ancestral sampling and may also skip some."""
        return ddim(denoise, noise(state, 0), self.process, grid, noise=noise, eta=1.0)


class DiffuRec(GaussianDenoising):
    """DiffuRec (TOIS 2024): the noisy next item, a thousandth of it, is added to the history that a Transformer reads.

    Training: x_t of the target's embedding is added, times lambda ~ N(.001, .001^2) drawn for every element, to each position
    of the normalised history; a Transformer without positions reads the sum, and its output at the last item is the
    estimate of x_0; the loss is the cross-entropy of its products with all items. Scoring: T steps from noise; one pass is
    the same up to O(``lambda_noise``) (``sampler: one_pass``; ``diagnostics()``).

    Departures from the official code: in evaluation lambda is its mean, so that scores are not random; the noise of the
    reverse process has the posterior's variance and depends on seed and history alone; padding is masked as a key (there its
    rows are masked as queries, so every item reads the padding); a single LayerNorm ends the network; the learning rate
    is constant; the initial item embeddings have standard deviation .02 (there 1, from which it learns far more slowly).
    The padding item is not ranked.

    ``train_positions: last`` is the paper's way: one target for each prefix, attention in both directions. ``all`` is not: it
    trains at every position in one pass, so the attention is causal, and each position has its own noisy item, as in ADRec.
    """

    norm_first = True
    random_weight = True

    @property
    def causal(self) -> bool:
        return self.settings.train_positions == "all"

    def denoising_loss(
        self, estimate: torch.Tensor, target: torch.Tensor, x_0: torch.Tensor, row: torch.Tensor, n_rows: int
    ) -> torch.Tensor:
        """Cross-entropy of the estimate's products with all items, mean over targets."""
        return item_cross_entropy(estimate, self.items, target)
