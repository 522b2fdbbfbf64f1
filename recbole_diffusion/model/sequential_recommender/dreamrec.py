"""DreamRec: Yang et al., "Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion", NeurIPS 23."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding

from recbole_diffusion.diffusion.denoisers import ConditionedDenoiser
from recbole_diffusion.diffusion.exact import AffineChain, affine_chain
from recbole_diffusion.diffusion.guidance import classifier_free
from recbole_diffusion.diffusion.noise import Noise, keyed_noise
from recbole_diffusion.diffusion.objective import training_loss
from recbole_diffusion.diffusion.process import Denoiser, GaussianDiffusion
from recbole_diffusion.diffusion.samplers import SPACINGS, ancestral, ddim, dpmpp_2m, time_grid
from recbole_diffusion.diffusion.schedule import SCHEDULES, make_betas
from recbole_diffusion.diffusion.timesteps import UniformTimesteps
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.derived import DerivedFromWeights
from recbole_diffusion.model.diagnostics import collapse
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy
from recbole_diffusion.model.sequential_recommender.generated import HistoryKeys
from recbole_diffusion.model.sequential_recommender.next_item import EmbeddingScorer
from recbole_diffusion.model.sequential_recommender.official_encoder import OfficialEncoder
from recbole_diffusion.model.sequential_recommender.transformer import (
    CausalTransformer,
    EncodesByTransformer,
    TransformerSettings,
)
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class DreamRecSettings(TransformerSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/DreamRec.yaml``."""

    steps: int = setting(ge=1)
    noise_schedule: str = setting(choices=tuple(SCHEDULES))
    beta_start: float = setting(gt=0, lt=1)
    beta_end: float = setting(gt=0, lt=1)
    mean_type: str = setting(choices=("x0", "eps"))
    loss: str = setting(choices=("mse", "mse+ce"))
    uncond_prob: float = setting(ge=0, le=1)
    target_gradient: bool = setting()
    pretrain_epochs: int = setting(ge=0)
    guidance_scale: float = setting(ge=0, scoring=True)
    sampler: str = setting(choices=("exact", "mean", "ancestral", "ddim", "dpmpp_2m"), scoring=True)
    sampler_steps: int = setting(ge=1, scoring=True)
    sampler_spacing: str = setting(choices=SPACINGS, scoring=True)
    n_samples: int = setting(ge=1, scoring=True)
    ranking: str = setting(choices=("inner_product", "centred"), scoring=True)
    denoiser: str = setting(choices=("mlp1", "mlp2"))
    encoder: str = setting(choices=("transformer", "official"))
    history_length: int = setting(ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_start > self.beta_end:
            raise SettingsError(f"beta_start = {self.beta_start!r}: must be <= beta_end = {self.beta_end!r}")
        if self.sampler in ("ddim", "dpmpp_2m") and self.sampler_steps > self.steps:
            raise SettingsError(f"sampler_steps = {self.sampler_steps!r}: must be <= steps = {self.steps!r}")
        self.betas()
        if self.sampler == "mean" and self.denoiser != "mlp1":
            raise SettingsError("sampler = 'mean': only the linear denoiser mlp1 has a mean in closed form")

    def betas(self) -> torch.Tensor:
        """The schedule, ``[steps]``."""
        try:
            return make_betas(self.noise_schedule, self.steps, self.beta_start, self.beta_end)
        except ValueError as error:
            raise SettingsError(f"noise_schedule = {self.noise_schedule!r}: {error}") from error


class DreamRec(DerivedFromWeights, EncodesByTransformer, EmbeddingScorer):
    """DreamRec (NeurIPS 2023): generates the embedding of the ideal next item, guided by the history.

    Training is Algorithm 1, generation Algorithm 2 of the paper; an item's score is its inner product with the generated
    embedding, or (``ranking = centred``, not in the paper) that of both less the mean of all items' embeddings.

    By default the loss moves the network and the encoder, through which item embeddings are learnt too, but not the target
    e_0: Algorithm 1 takes the gradient of the network's parameters. The official code lets it move e_0 as well
    (``target_gradient = True``), and then shrinking all embeddings to a point is the easiest way to a small loss.
    ``loss = mse+ce``, not in the paper either, adds the cross-entropy of the estimated embedding's products with all items over
    sqrt(d), the term that keeps later models from collapsing; it too moves the embeddings with ``target_gradient`` alone.
    ``pretrain_epochs``, as in ADRec (KDD 2025): so many epochs train the item embeddings with the encoder alone, by the same
    cross-entropy of the encoded history; then the encoder starts again, and the embeddings go on from there.

    Departures from the official code: that default; evaluation without dropout and over every row; the padding item is
    not ranked; any width and batch size. With the linear denoiser ``mlp1``, generation is drawn in one
    shot from the distribution that the steps of Algorithm 2 have (``sampler = exact``). The noise is a function of seed and
    history, so a score does not depend on the batch it is computed in.

    ``encoder = official`` is the official history encoder, and :func:`~.official_encoder.from_official` brings its weights.
    The default, ``transformer``, is a standard pre-norm Transformer layer and differs from it in that keys and values are
    normalised too; the attention has an output projection, no biases of keys and values, and the scale of a head's width;
    the residuals add what is not normalised; the feed-forward layer is ``inner_size`` wide, with a GELU;
    there is a single LayerNorm at the end where the official code has two; layers can be stacked; and an empty history is
    encoded from the first position's embedding, where the official condition is the last LayerNorm's bias.
    """

    settings_class = DreamRecSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = DreamRecSettings.read(config)
        self.noise_seed = config["seed"]
        self.item_embedding = nn.Embedding(self.n_items, s.hidden_size, padding_idx=0)
        self.no_history = nn.Parameter(torch.randn(s.hidden_size))  # Phi
        size = s.hidden_size, min(s.history_length, self.max_seq_length)
        dropout = s.hidden_dropout_prob, s.attn_dropout_prob
        if s.encoder == "official":
            self.encoder = OfficialEncoder(*size, s.n_heads, *dropout)
        else:
            self.encoder = CausalTransformer(*size, s.n_layers, s.n_heads, s.inner_size, *dropout, s.hidden_act)
        self.network = ConditionedDenoiser(s.hidden_size, s.denoiser, s.steps)
        self.timesteps = UniformTimesteps(s.steps)
        self.process = GaussianDiffusion(s.betas())
        if s.sampler == "exact" and not self.network.is_affine:
            self.logger.info("DreamRec: sampler 'exact' needs the linear denoiser mlp1; mlp2 is sampled step by step")
        self.keys = HistoryKeys(self.max_seq_length)
        self.pretrains, self.initial_encoder = False, {}
        if s.pretrain_epochs > 0:
            self.initial_encoder = {name: value.clone() for name, value in self.encoder.state_dict().items()}
        accelerate(config, self.network, self.encoder)

    @property
    def early_epochs(self) -> int:
        """Epochs before the last stage of training."""
        return self.settings.pretrain_epochs

    def begin_epoch(self, epoch: int) -> bool:
        """Enters the stage of an epoch, counted from 0; returns whether it is the first one after pre-training."""
        self.pretrains = epoch < self.early_epochs
        begins = epoch == self.early_epochs > 0
        if begins:
            self.encoder.load_state_dict(self.initial_encoder)
        return begins

    @property
    def fine_tunes(self) -> bool:
        """Whether the stage is the last one."""
        return not self.pretrains

    def condition(self, interaction: Any) -> torch.Tensor:
        """Encoded histories ``[B, d]``, of the latest ``history_length`` items."""
        return self.encode_last(*self._latest(interaction))

    def _latest(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The latest ``history_length`` items, padding on the right, and how many they are ``[B]``."""
        history, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        kept = min(self.settings.history_length, history.shape[1])
        start = (length - kept).clamp(min=0)
        index = start[:, None] + torch.arange(kept, device=history.device)
        return history.gather(1, index), length.clamp(max=kept)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Algorithm 1 for each target: without the history with probability p_u; squared error of its predicted embedding."""
        cond, target, _ = self.positions(interaction)
        if self.pretrains:
            return _cross_entropy(cond, self.item_embedding.weight, target)
        drop = torch.rand(len(target), 1, device=target.device) < self.settings.uncond_prob
        t, weight = self.timesteps.sample(len(target))
        eps = torch.randn(cond.shape, device=cond.device, dtype=self.no_history.dtype)
        return self.denoising_loss(cond, target, drop, t, weight, eps)

    def denoising_loss(
        self,
        cond: torch.Tensor,
        target: torch.Tensor,
        drop: torch.Tensor,
        t: torch.Tensor,
        weight: torch.Tensor,
        eps: torch.Tensor,
    ) -> torch.Tensor:
        """The loss for given draws.

        Args:
            cond: encoded histories ``[N, d]``.
            target: items ``[N]``.
            drop: bool ``[N, 1]``, where the history is not seen.
            t: steps ``[N]``.
            weight: T times the probability of each step ``[N]``.
            eps: noise ``[N, d]``.
        """
        items = self.item_embedding.weight if self.settings.target_gradient else self.item_embedding.weight.detach()
        x_0 = embedding(target, items, padding_idx=0)
        cond = torch.where(drop, self.no_history, cond)
        x_t = self.process.q_sample(x_0, t, eps)
        output = self.network(x_t, cond, t)
        losses = training_loss(self.process, self.settings.mean_type, output, x_0, eps, x_t, t, reweight=False)
        if self.settings.loss == "mse+ce":
            estimate = output if self.settings.mean_type == "x0" else self.process.x0_from_eps(x_t, t, output)
            share = 1 / (weight * len(target))
            return (losses * share).sum() + _cross_entropy(estimate, items, target, share)
        return (losses / weight).mean()

    def elbo_batch(self, interaction: Any) -> tuple[Denoiser, torch.Tensor]:
        """What the ELBO is of: ``(denoise, x_0)``, x_0 the target items' embeddings ``[B, d]`` given their histories.

        At guidance 0, whatever ``guidance_scale`` says: it is the conditional model that has been fitted to the data.
        """
        network = classifier_free(self.network, self.condition(interaction), self.no_history, 0.0)
        return self.process.denoiser(network, self.settings.mean_type), self.item_embedding(interaction[self.POS_ITEM_ID])

    def noise_of(self, interaction: Any) -> Noise:
        """The noise of a batch's histories, a function of each history and the seed."""
        return keyed_noise(self.keys(self._latest(interaction)[0]), self.noise_seed)

    @torch.no_grad()
    def query(self, interaction: Any) -> torch.Tensor:
        """What every item's embedding is multiplied with ``[B, d]``.

        Centred, an item scores (x - m) . (e - m), m the mean embedding; (x - m) . m is the same for all items and left out.
        """
        oracle = self.generate(interaction)
        return oracle - self.item_embedding.weight[1:].mean(0) if self.settings.ranking == "centred" else oracle

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """Whether the item embeddings have collapsed, for the record."""
        return collapse(self.item_embedding.weight[1:])

    @torch.no_grad()
    def generate(self, interaction: Any) -> torch.Tensor:
        """Oracle items ``[B, d]`` (Algorithm 2), the mean of ``n_samples`` draws each."""
        cond = self.condition(interaction)
        noise = self.noise_of(interaction)
        sampler = self._closed_form if self._has_closed_form() else self._step_by_step
        draws_of_one = self.settings.steps + 1
        # One tensor from the start: a number of draws that cannot fit is known before the first of them.
        samples = cond.new_empty((1 if self.settings.sampler == "mean" else self.settings.n_samples, *cond.shape))
        for sample in range(len(samples)):
            samples[sample] = sampler(cond, lambda x, draw, first=sample * draws_of_one: noise(x, first + draw))
        return samples.mean(0) if len(samples) > 1 else samples[0]

    @property
    def network_calls(self) -> int:
        """How often a history goes through the denoiser for its scores: never where all steps are one product."""
        s = self.settings
        if self._has_closed_form():
            return 0
        steps = s.sampler_steps if s.sampler in ("ddim", "dpmpp_2m") else s.steps
        return s.n_samples * steps * (1 if s.guidance_scale == 0 else 2)

    def _has_closed_form(self) -> bool:
        return self.settings.sampler in ("exact", "mean") and self.network.is_affine

    def _closed_form(self, cond: torch.Tensor, noise: Noise) -> torch.Tensor:
        """One draw of what all steps of Algorithm 2 draw, or its mean."""
        chain = self._chain()
        return chain.mean(cond) if self.settings.sampler == "mean" else chain.sample(cond, noise(cond, 0))

    def _chain(self) -> AffineChain:
        """Distribution of the generated item given the encoded history.

        Guidance cancels in x: the chain's input is u = B ((1 + w) c - w Phi).
        """

        def compose() -> AffineChain:
            shift = self.network.time_shift(torch.arange(self.process.n_steps, device=self.no_history.device))
            A, B, w = *self.network.affine_parts()[:2], self.settings.guidance_scale
            chain = affine_chain(A, shift, self.process, self.settings.mean_type)
            return chain.after((1 + w) * B, -w * B @ self.no_history).to(B.dtype)

        return self.derived((*self.network.parameters(), self.no_history), compose)

    def _step_by_step(self, cond: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Algorithm 2 as it is written, or a faster sampler on fewer steps."""
        s = self.settings
        guided = classifier_free(self.network, cond, self.no_history, s.guidance_scale)
        denoise = self.process.denoiser(guided, s.mean_type)
        x_T = noise(cond, 0)
        if s.sampler == "ddim":
            return ddim(denoise, x_T, self.process, time_grid(self.process, s.sampler_steps, s.sampler_spacing))
        if s.sampler == "dpmpp_2m":
            return dpmpp_2m(denoise, x_T, self.process, time_grid(self.process, s.sampler_steps, s.sampler_spacing))
        return ancestral(denoise, x_T, self.process, time_grid(self.process), noise=noise)


def _cross_entropy(
    query: torch.Tensor, items: torch.Tensor, target: torch.Tensor, share: torch.Tensor | None = None
) -> torch.Tensor:
    """Of products over sqrt(d): the embeddings have elements of about unit variance, and so have these, as in attention."""
    return item_cross_entropy(query / query.shape[1] ** 0.5, items, target, share)
