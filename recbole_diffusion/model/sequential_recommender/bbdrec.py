"""BBDRec: "Brownian Bridge Diffusion for Sequential Recommendation" (arXiv 2507.06121)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from recbole_diffusion.diffusion.bridge import BrownianBridge, bridge_levels
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.process import Denoiser
from recbole_diffusion.diffusion.samplers import Grid, stepwise
from recbole_diffusion.model.sequential_recommender.adrec import StagedDenoising, StagedSettings
from recbole_diffusion.settings import setting


@dataclasses.dataclass(frozen=True)
class BBDRecSettings(StagedSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/BBDRec.yaml``."""

    bridge_variance: float = setting(ge=0)


class BBDRec(StagedDenoising):
    """BBDRec (2025): ADRec with a Brownian bridge from the next item to the encoded history in place of Gaussian noise.

    x_t = (1 - b_t) x_0 + b_t c + sqrt(m b_t (1 - b_t)) eps, with c the encoded history at the position; the reverse process
    starts at c instead of at noise. Network, losses and stages are ADRec's. One pass is the same up to
    O(``lambda_noise``) (``sampler: one_pass``; ``diagnostics()``).

    Departures from the official code: those of :class:`~.adrec.ADRec`. The end point's term of the posterior mean, which that
    code leaves out, is 0 (:mod:`recbole_diffusion.diffusion.bridge`). Its T, m and weight of the squared error are tuned
    for each data set; the defaults are those for Beauty.
    """

    settings_class = BBDRecSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.process = BrownianBridge(bridge_levels(self.settings.steps), self.settings.bridge_variance)

    def noised(self, x_0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return self.process.q_sample(x_0, t, eps, state)

    def reverse(self, denoise: Denoiser, state: torch.Tensor, grid: Grid, noise: Noise) -> torch.Tensor:
        return stepwise(denoise, self.process.prior(state), self.process, grid, noise=noise)
