"""FMRec: Liu et al., "Flow Matching Based Sequential Recommender Model", IJCAI 2025."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch.nn.functional import mse_loss

from recbole_diffusion.diffusion.flow import RectifiedFlow
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.process import Denoiser
from recbole_diffusion.diffusion.samplers import Grid
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy
from recbole_diffusion.model.layers import mlp
from recbole_diffusion.model.sequential_recommender.denoising import DenoisingRecommender, DenoisingSettings
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class FMRecSettings(DenoisingSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/FMRec.yaml``."""

    mode_scale: float = setting(ge=-1, le=1.75)
    ce_weight: float = setting(ge=0)
    reconstruction_weight: float = setting(ge=0)
    decoder_dims: tuple[int, ...] = setting(ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_positions == "all" and self.reconstruction_weight > 0:
            raise SettingsError(
                f"reconstruction_weight = {self.reconstruction_weight!r}: must be 0 with train_positions = 'all', where no "
                "history has a code of its own to reconstruct it from"
            )


class FMRec(DenoisingRecommender):
    """FMRec (IJCAI 2025): DiffuRec's network on straight paths from noise to the next item, and a decoder of the history.

    With s the paper's time (0 noise, 1 data): x_s = s e + (1 - s) z; s = 1 - u - m (cos^2(pi u / 2) - 1 + u) with uniform u,
    at least .001, m = ``mode_scale``. Loss: squared error of the estimated embedding, ``ce_weight`` times the cross-entropy
    of its products with all items, and ``reconstruction_weight`` times the error of the history's items as a decoder
    reconstructs them from what the last layer reads. Scoring: T Euler steps from noise z along the estimate less z, so that
    x_1 is the mean of the T estimates; one pass, the first of them, is the same up to O(``lambda_noise``) (``sampler:
    one_pass``; ``diagnostics()``).

    Departures from the official code: those of :class:`~.diffurec.DiffuRec`, but for the initial item embeddings, whose
    standard deviation is the official 1 here too, and for the noise, which is drawn once, at the start. In the
    reconstruction the history's items and all others weigh the same half each, and the decoder reads the last item's
    position: "balanced" and the layer are read so here.
    ``train_positions``: as of DiffuRec, ``last`` is the paper's way; ``all`` is not, and has no reconstruction.
    """

    settings_class = FMRecSettings
    norm_first = True
    random_weight = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings
        self.process = RectifiedFlow(s.steps)
        self.decoder = None
        if s.reconstruction_weight > 0:
            self.decoder = mlp([s.hidden_size, *s.decoder_dims, self.n_items], "tanh")

    @property
    def causal(self) -> bool:
        positions: str = self.settings.train_positions
        return positions == "all"

    def draw_times(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Noise levels tau = 1 - s in [0, .999]."""
        u = torch.rand(shape, device=self.device)
        time = 1 - u - self.settings.mode_scale * ((math.pi / 2 * u).cos().square() - 1 + u)
        return 1 - time.clamp(1e-3, 1.0)

    def clock(self, t: torch.Tensor) -> torch.Tensor:
        """999 s, of a step's number or of a noise level."""
        return 999 * (1 - (t if t.is_floating_point() else (t + 1) / self.settings.steps))

    def noised(self, x_0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return self.process.q_sample(x_0, t, eps)

    def reverse(self, denoise: Denoiser, state: torch.Tensor, grid: Grid, noise: Noise) -> torch.Tensor:
        """Euler steps along x_0 - z: after them x is tau z, and the rest of 1 the estimates so far."""
        x = z = noise(state, 0)
        estimates = torch.zeros_like(z)
        for t, s in grid:
            at = torch.full((len(z),), t, dtype=torch.long, device=z.device)
            estimates = estimates + (t - s) / self.settings.steps * denoise(x, at)
            x = estimates + (s + 1) / self.settings.steps * z
        return x

    def denoising_loss(
        self, estimate: torch.Tensor, target: torch.Tensor, x_0: torch.Tensor, row: torch.Tensor, n_rows: int
    ) -> torch.Tensor:
        """Mean squared error of the embedding and the weighted cross-entropy, mean over targets."""
        return mse_loss(estimate, x_0) + self.settings.ce_weight * item_cross_entropy(estimate, self.items, target)

    def _loss_of_rows(self, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        estimate, target, x_0, inner = self._estimates_of_rows(items, targets)
        loss = self.denoising_loss(estimate, target, x_0, torch.arange(len(items), device=items.device), len(items))
        if self.decoder is None:
            return loss
        return loss + self.settings.reconstruction_weight * self.reconstruction_error(inner, items)

    def reconstruction_error(self, inner: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Half the mean squared error at the history's items and half that at all others, mean over rows.

        Args:
            inner: what the decoder reads ``[B, d]``.
            items: histories ``[B, L]``, padding 0, which is no item of any.
        """
        assert self.decoder is not None
        error = self.decoder(inner)[:, 1:]
        has = torch.zeros(len(items), self.n_items, dtype=torch.bool, device=items.device).scatter_(1, items, True)[:, 1:]
        error = (error - has.to(error.dtype)).square()
        n_has = has.sum(1)
        inside = (error * has).sum(1)
        outside = error.sum(1) - inside
        return (inside / n_has.clamp(min=1) + outside / (has.shape[1] - n_has).clamp(min=1)).mean() / 2
