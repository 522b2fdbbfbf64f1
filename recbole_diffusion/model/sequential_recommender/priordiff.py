"""PriorDiff: discrete diffusion of the next item towards an informative prior. Of no paper."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from recbole_diffusion.diffusion.prior import PriorDiffusion
from recbole_diffusion.diffusion.samplers import time_grid
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.diagnostics import SAMPLE, change_of_scores
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy
from recbole_diffusion.model.sequential_recommender.causal import PLACE, TARGETS, CausalRecommender
from recbole_diffusion.model.sequential_recommender.priors import PRIORS, NextItemPrior, draw
from recbole_diffusion.model.sequential_recommender.transformer import (
    CausalTransformer,
    EncodesByTransformer,
    TransformerSettings,
    init_normal,
)
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class PriorDiffSettings(TransformerSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/PriorDiff.yaml``."""

    prior: str = setting(choices=PRIORS)
    prior_smoothing: float = setting(gt=0, le=1)
    knn_window: int = setting(ge=1)
    knn_decay: float = setting(gt=0, le=1)
    knn_history_length: int = setting(ge=1)
    steps: int = setting(ge=1)
    sampler_steps: int = setting(ge=1, scoring=True)
    uncond_prob: float = setting(ge=0, le=1)
    guidance_scale: float = setting(ge=0, scoring=True)
    layer_norm_eps: float = setting(gt=0)
    initializer_range: float = setting(gt=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler_steps > self.steps:
            raise SettingsError(f"sampler_steps = {self.sampler_steps!r}: must be <= steps = {self.steps!r}")


class PriorDiff(EncodesByTransformer, CausalRecommender):
    """PriorDiff (ours): the next item dissolves into a draw from a simple model; the reverse pass starts from that model.

    The forward process keeps the target with probability alphabar_t and otherwise replaces it by a draw from a prior
    p(. | history): ``prior: knn``, SequentialKNN's scores as a distribution, ``pop`` or ``none``, all items alike
    (:mod:`recbole_diffusion.diffusion.prior`, :class:`~.priors.NextItemPrior`). The posterior of the clean item is its
    probability r(i) given the history times the likelihood of x_t, which is known. So a network has to learn r alone, here by

        log r(i) = <e_i, h> + gamma(t) log p(i) + constant,

    h the history encoded by a causal Transformer (PackedSASRec's), gamma(t) a number for each level that is learnt. gamma = 1
    and no network is the prior itself; at the least noise the posterior is nearly all likelihood, and gamma matters little.

    Training: a random level for each target, x_t from the forward process, cross-entropy of the target among all items under
    the posterior. In training the prior does not know the user's future (``NextItemPrior``). For a share ``uncond_prob`` of
    the targets the term of the prior is left out, as the condition is in classifier-free guidance (Ho and Salimans 2022):
    the network learns to recommend without it, where it would otherwise learn a correction of the prior alone. gamma falls
    as the network learns, since the likelihood of all items has less and less need of the prior; the order of the first
    ones still gains by it. So scoring adds w log p(i), w = ``guidance_scale``, as a classifier's in classifier guidance
    (Dhariwal and Nichol 2021): the multiple is gamma(t) + w then.

    Scoring: the reverse pass starts from the prior's draw, which carries nothing of the target, so **one shot** has r(T) as its
    distribution, exactly and without drawing. More ``sampler_steps``: the distribution of the reverse pass over all its draws,
    in closed form. If gamma were the same at all levels every number of steps would give r; ``diagnostics()`` says how much
    they differ as it is.

    Ablations: ``prior: none``, uniform discrete diffusion; ``steps: 1``, no diffusion: cross-entropy with the prior in the
    logits; both, PackedSASRec; the prior alone is SequentialKNN with popularity mixed in.
    """

    settings_class = PriorDiffSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = PriorDiffSettings.read(config)
        self.item_embedding = nn.Embedding(self.n_items, s.hidden_size, padding_idx=0)
        self.encoder = CausalTransformer(
            s.hidden_size, self.max_seq_length, s.n_layers, s.n_heads, s.inner_size, s.hidden_dropout_prob,
            s.attn_dropout_prob, s.hidden_act, norm_first=False, eps=s.layer_norm_eps,
        )  # fmt: skip
        init_normal(self, s.initializer_range)
        self.multiple = nn.Parameter(torch.ones(s.steps)) if s.prior != "none" else None  # gamma(t)
        self.process = PriorDiffusion(s.steps)
        self.prior = NextItemPrior(
            s.prior, dataset, self.n_items, self.max_seq_length, s.prior_smoothing, s.knn_window, s.knn_decay,
            s.knn_history_length,
        )  # fmt: skip
        if PLACE not in dataset.inter_feat and s.train_positions == "last":
            raise SettingsError(
                "train_positions = 'last': rows that are given do not say where in a sequence they are; use all"
            )
        rows = dataset[torch.linspace(0, len(dataset) - 1, min(len(dataset), SAMPLE)).long()]
        self.sample = type(rows)({field: rows[field] for field in (self.ITEM_SEQ, self.ITEM_SEQ_LEN)})
        accelerate(config, self.encoder)

    def products(self, state: torch.Tensor) -> torch.Tensor:
        """What the network has to say of items 1, 2, ...: encoded histories ``[N, d]`` -> ``[N, n_items - 1]``."""
        return state @ self.item_embedding.weight[1:].T

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The mean cross-entropy of the targets given x_t, at a random noise level for each."""
        state, target, _ = self.positions(interaction)
        target = target - 1
        if self.settings.steps == 1 and self.settings.uncond_prob == 1:  # neither the prior nor its draw is in the logits
            return item_cross_entropy(state, self.item_embedding.weight[1:], target)
        t = torch.randint(self.settings.steps, target.shape, device=target.device)
        u = torch.rand(3, len(target), device=target.device)
        return self.denoising_loss(state, target, self._places(interaction), t, u)

    def denoising_loss(
        self, state: torch.Tensor, target: torch.Tensor, place: torch.Tensor, t: torch.Tensor, u: torch.Tensor
    ) -> torch.Tensor:
        """The mean over targets of -log p(x_0 = target | x_t, history), for given draws.

        Args:
            state: encoded histories ``[N, d]``.
            target: items ``[N]``, counted from 0.
            place: of the targets in the training sequences ``[N]``.
            t: noise levels ``[N]``.
            u: uniform numbers ``[3, N]``: whether x_t is the target, what it is if not, and whether the network is given the
                prior.
        """

        def prior(rows: slice, logits: torch.Tensor) -> torch.Tensor:
            """log p of some targets; adds to their logits what x_t says."""
            p = self.prior.of_targets(place[rows])
            if self.settings.steps > 1:  # after a single step x_t is a draw of the prior and says nothing
                x_t = self.process.q_sample(target[rows], t[rows], u[0, rows], draw(p, u[1, rows]))[:, None]
                logits.scatter_add_(1, x_t, self.process.evidence(p.expand_as(logits).gather(1, x_t), t[rows]))
            return p.log().expand_as(logits)

        given = u[2] >= self.settings.uncond_prob
        multiple = None if self.multiple is None else self.multiple[t] * given
        return item_cross_entropy(state, self.item_embedding.weight[1:], target, term=prior, multiple=multiple)

    def _places(self, interaction: Any) -> torch.Tensor:
        """Where in the training sequences the targets of :meth:`positions` are, ``[N]``."""
        if TARGETS not in interaction:
            return interaction[PLACE]
        row, column = interaction[TARGETS].nonzero(as_tuple=True)
        return interaction[PLACE][row] + column

    @torch.no_grad()
    def log_probabilities(self, interaction: Any, n_steps: int | None = None) -> torch.Tensor:
        """log of the distribution of items 1, 2, ... after ``n_steps`` (None: ``sampler_steps``), ``[B, n_items - 1]``."""
        n_steps = n_steps or self.settings.sampler_steps
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        products, p = self.products(self.condition(interaction)).float(), self.prior(items, length)
        log_p = p.log()
        if n_steps == 1:
            return self._clean(products, log_p, self.settings.steps - 1).log_softmax(1)
        m = p
        for t, s in time_grid(self.process, n_steps):
            m = self.process.marginal_step(m, self._clean(products, log_p, t).softmax(1), p, t, s)
        return m.log()

    def _clean(self, products: torch.Tensor, log_p: torch.Tensor, t: int) -> torch.Tensor:
        """Logits of r_t, the probabilities of the clean item before x_t is seen."""
        if self.multiple is None:
            return products
        return products + (self.multiple[t] + self.settings.guidance_scale) * log_p

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Scores ``[B, n_items]``: log-probabilities; the padding item's is -inf."""
        scores = self.log_probabilities(interaction)
        return nn.functional.pad(scores, (1, 0), value=-torch.inf)

    def predict(self, interaction: Any) -> torch.Tensor:
        """Scores of history-item pairs ``[B]``; each history is scored once, however many items are asked for."""
        histories, row = self.distinct(interaction)
        return self.full_sort_predict(histories)[row, interaction[self.ITEM_ID]]

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """The largest change of a log-probability when one shot takes the place of all steps.

        Over up to 256 training histories. ``one_shot_same_top10``: share of the ten best items that stay so.
        ``prior_multiple_first``, ``_last``: gamma at the least noise and at the prior.
        """
        training = self.training
        self.eval()
        one, all_ = (self.log_probabilities(self.sample.to(self.device), n) for n in (1, self.settings.steps))
        difference, same = change_of_scores(one, all_)
        self.train(training)
        found = {"one_shot_score_difference": difference, "one_shot_same_top10": same}
        if self.multiple is not None:
            found |= {"prior_multiple_first": float(self.multiple[0]), "prior_multiple_last": float(self.multiple[-1])}
        return found
