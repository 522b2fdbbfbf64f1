"""PreferDiff: Liu et al., "Preference Diffusion for Recommendation", ICLR 2025."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, logsigmoid

from recbole_diffusion.diffusion.denoisers import ConditionedDenoiser
from recbole_diffusion.diffusion.exact import AffineChain, affine_ddim
from recbole_diffusion.diffusion.guidance import classifier_free
from recbole_diffusion.diffusion.noise import keyed_noise
from recbole_diffusion.diffusion.process import GaussianDiffusion
from recbole_diffusion.diffusion.samplers import Grid, ddim
from recbole_diffusion.diffusion.schedule import linear
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.derived import DerivedFromWeights
from recbole_diffusion.model.sequential_recommender.generated import GeneratedQuery
from recbole_diffusion.model.sequential_recommender.transformer import (
    CausalTransformer,
    EncodesByTransformer,
    TransformerSettings,
)
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class PreferDiffSettings(TransformerSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/PreferDiff.yaml``."""

    steps: int = setting(ge=1)
    beta_start: float = setting(gt=0, lt=1)
    beta_end: float = setting(gt=0, lt=1)
    uncond_prob: float = setting(ge=0, le=1)
    guidance_scale: float = setting(ge=0, scoring=True)
    preference_weight: float = setting(ge=0, le=1)
    preference_scale: float = setting(gt=0)
    target_gradient: bool = setting()
    sampler: str = setting(choices=("loop", "one_pass", "mean"), scoring=True)
    sampler_steps: int = setting(ge=1, scoring=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_start > self.beta_end:
            raise SettingsError(f"beta_start = {self.beta_start!r}: must be <= beta_end = {self.beta_end!r}")
        if self.sampler_steps > self.steps:
            raise SettingsError(f"sampler_steps = {self.sampler_steps!r}: must be <= steps = {self.steps!r}")

    def grid(self) -> Grid:
        """The published times: each T/n-th, counted from 1, and the first: 1999, 1899, ..., 99, 0 of 2000 with n = 20."""
        n = self.sampler_steps
        times = sorted({0, *(self.steps * k // n - 1 for k in range(1, n + 1))}, reverse=True)
        return list(zip(times, [*times[1:], -1], strict=True))


class PreferDiff(DerivedFromWeights, EncodesByTransformer, GeneratedQuery):
    """PreferDiff (ICLR 2025): DreamRec by cosine, whose estimate must be better for the next item than for the other targets.

    Training: with l = (1 - cos(x_0, f(x_t, h, t)))^2 of the next item, l- that of the mean of the batch's other targets at the
    same t with noise of its own, and lambda = 1 - ``preference_weight``, the loss is lambda l - (1 - lambda) log sigmoid(-gamma
    (l - l-)), mean over targets. The history is left out with probability p_u. Scoring: deterministic DDIM with guidance from
    noise. The network is linear in x and h, so the steps compose: x_0 = M u + m + F z in one product, **the same numbers as
    step by step** (``diagnostics()``); ``sampler: mean`` starts from z = 0, the mean over z.

    Departures from the official code: the preference is taken for each target and then averaged (there the losses are averaged
    over the batch first); the noise is a function of seed and history; the history's encoder is DreamRec's pre-norm
    Transformer here; it is trained at every position of a sequence in one pass; the embeddings are narrower by default
    (the paper: 3072). The padding item is not ranked.
    """

    settings_class = PreferDiffSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = PreferDiffSettings.read(config)
        self.item_embedding = nn.Embedding(self.n_items, s.hidden_size, padding_idx=0)
        self.no_history = nn.Parameter(torch.randn(s.hidden_size))  # Phi
        self.encoder = CausalTransformer(
            s.hidden_size, self.max_seq_length, s.n_layers, s.n_heads, s.inner_size, s.hidden_dropout_prob,
            s.attn_dropout_prob, s.hidden_act,
        )  # fmt: skip
        self.network = ConditionedDenoiser(s.hidden_size, n_steps=s.steps)
        self.process = GaussianDiffusion(linear(s.steps, s.beta_start, s.beta_end))
        accelerate(config, self.network, self.encoder)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        cond, target, _ = self.positions(interaction)
        drop = torch.rand(len(target), 1, device=target.device) < self.settings.uncond_prob
        t = torch.randint(self.settings.steps, target.shape, device=target.device)
        x_0 = self.item_embedding(target)
        eps = torch.randn(2, *x_0.shape, device=x_0.device)
        return self.preference_loss(torch.where(drop, self.no_history, cond), x_0, t, eps)

    def preference_loss(self, cond: torch.Tensor, x_0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The loss for given draws: conditions and targets' embeddings ``[N, d]``, steps ``[N]``, noise ``[2, N, d]``."""
        s = self.settings
        if not s.target_gradient:
            x_0 = x_0.detach()
        others = (x_0.sum(0) - x_0) / max(len(x_0) - 1, 1)
        liked, other = (self._cosine_error(x, cond, t, noise) for x, noise in zip((x_0, others), eps, strict=True))
        preferred = logsigmoid(-s.preference_scale * (liked - other))
        return ((1 - s.preference_weight) * liked - s.preference_weight * preferred).mean()

    def _cosine_error(self, x_0: torch.Tensor, cond: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """(1 - cos(x_0, f(x_t, h, t)))^2, ``[N]``."""
        return (1 - cosine_similarity(self.network(self.process.q_sample(x_0, t, eps), cond, t), x_0)).square()

    @property
    def network_calls(self) -> int:
        """How often a history goes through the denoiser for its scores: never where all steps are one product."""
        s = self.settings
        return len(s.grid()) * (1 if s.guidance_scale == 0 else 2) if s.sampler == "loop" else 0

    def generate(self, items: torch.Tensor, length: torch.Tensor, keys: torch.Tensor, sampler: str) -> torch.Tensor:
        cond = self.encode_last(items, length)
        if sampler == "mean":
            return self._chain().mean(cond)
        x_T = keyed_noise(keys, self.noise_seed)(cond, 0)
        if sampler == "one_pass":
            return self._chain().sample(cond, x_T)
        denoise = classifier_free(self.network, cond, self.no_history, self.settings.guidance_scale)
        return ddim(denoise, x_T, self.process, self.settings.grid())

    def _chain(self) -> AffineChain:
        """The generated item from the encoded history and z: all steps composed."""

        def compose() -> AffineChain:
            shift = self.network.time_shift(torch.arange(self.process.n_steps, device=self.no_history.device))
            A, B, w = *self.network.affine_parts()[:2], self.settings.guidance_scale
            chain = affine_ddim(A, shift, self.process, self.settings.grid())
            return chain.after((1 + w) * B, -w * B @ self.no_history).to(B.dtype)

        return self.derived((*self.network.parameters(), self.no_history), compose)
