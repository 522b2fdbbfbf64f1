"""GiffCF: Zhu et al., "Graph Signal Diffusion Model for Collaborative Filtering", SIGIR 2024."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.general_recommender import EASE
from recbole.utils import InputType
from torch import nn

from recbole_diffusion.diffusion.denoisers import sinusoidal_embedding
from recbole_diffusion.diffusion.heat import GraphHeat, deferred
from recbole_diffusion.diffusion.objective import squared_error
from recbole_diffusion.diffusion.samplers import stepwise, time_grid
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.derived import DerivedFromWeights
from recbole_diffusion.model.diagnostics import SAMPLE, change_of_scores
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.item_filter import (
    DenseFilter,
    FactorFilter,
    SparseRows,
    degree_normalised,
    densified,
    gram_filter,
    top_right_vectors,
)
from recbole_diffusion.model.layers import mlp
from recbole_diffusion.model.row_scorer import RowScorer
from recbole_diffusion.settings import Settings, SettingsError, setting

TIME_DIM = 20  # width of the step's embedding


@dataclasses.dataclass(frozen=True)
class GiffCFSettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/GiffCF.yaml``."""

    steps: int = setting(ge=1)
    sampling_steps: int = setting(ge=1, scoring=True)
    smoothing_strength: float = setting(ge=0)
    decay: float = setting(ge=0, le=1)
    filter: str = setting(choices=("adjacency", "ease"))
    ideal_weight: float = setting(ge=0)
    ideal_cutoff: int = setting(ge=1)
    reg_weight: float = setting(gt=0)
    embedding_size: int = setting(ge=1)
    dropout: float = setting(ge=0, lt=1)
    latent: bool = setting()
    positive_start: bool = setting()
    time_aware: bool = setting(key="time-aware")
    w_min: float = setting(ge=0)
    w_max: float = setting(gt=0)

    def __post_init__(self) -> None:
        for low, high in (("w_min", "w_max"), ("sampling_steps", "steps")):
            if getattr(self, low) > getattr(self, high):
                raise SettingsError(f"{low} = {getattr(self, low)!r}: must be <= {high} = {getattr(self, high)!r}")


class GiffDenoiser(nn.Module):
    """GiffCF's denoiser: two small networks that mix rows entry by entry, and one table of item embeddings between them.

    In embedding space, the rows z / n and c / |c|_1 are mixed by a network 3 -> 2 -> 1 with the step's embedding as third
    input; in item space, the result, c and its smoothed form by a network 4 -> 2 -> 1.

    Args:
        n_items: n.
        width: of the item embeddings.
        latent: whether the denoiser sees z at all; False leaves an autoencoder of c (the official ``wo_latent``).
        positive_start: whether the mixers' weights begin as their absolute values. Linearised at 0, the path of c through the
            table W is c -> k c W W^T / |c|_1, with k a sum of products of the mixers' weights, times swish's slopes. W W^T is
            positive semidefinite: where chance makes k negative, similar items can only push each other down, and training
            shrinks W until it has turned the mixers' signs. The slopes are positive unless the step's embedding, an input of
            both mixers, brings one below -1.28, which is rare.
    """

    def __init__(self, n_items: int, width: int, latent: bool = True, positive_start: bool = False) -> None:
        super().__init__()
        self.latent = latent
        self.table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, width)))
        self.embedding_mixer, self.item_mixer = _Mixer(3 if latent else 2), _Mixer(4)
        self.embedding_time, self.item_time = (mlp([TIME_DIM, TIME_DIM, 1], "silu") for _ in range(2))
        if positive_start:
            for mixer in (self.embedding_mixer, self.item_mixer):
                for layer in mixer.children():
                    layer.weight.data.abs_()

    def embed(self, c: torch.Tensor) -> torch.Tensor:
        """c W / |c|_1, ``[B, width]``: the same at every step of a reverse pass."""
        return (c / c.abs().sum(1, keepdim=True).clamp(min=1.0)) @ self.table

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor,
        smoothed: torch.Tensor,
        t: torch.Tensor,
        embedded: torch.Tensor,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x0_hat ``[B, n]`` from the latent ``z``, the condition ``c`` and ``smoothed`` = c A, all ``[B, n]``, at t ``[B]``.

        ``embedded`` is :meth:`embed` of c. ``codes`` takes the table's place for a ``z`` of other columns; see
        :func:`recbole_diffusion.diffusion.heat.deferred`.
        """
        step = sinusoidal_embedding(t + 1, TIME_DIM)
        latent = [(z / len(self.table)) @ (self.table if codes is None else codes)] if self.latent else []
        middle = self.embedding_mixer(*latent, embedded, self.embedding_time(step))
        return self.item_mixer(middle @ self.table.T, c, smoothed, self.item_time(step))


class GiffCF(DerivedFromWeights, RowScorer, GeneralRecommender):
    """GiffCF (SIGIR 2024): smooths a user's row over the graph of items and learns to undo it.

    Three steps, no noise.

    Training: z = F_t(x) at a uniform step, c = dropout(x), squared error of D(z, c, c A, t) against x, summed over items.
    Scoring: z = F_T(x), then T times x0_hat = D(z, x, x A, t) and the process's reverse step, exactly but with a single product
    of a dense row with A, since D reads z through its embeddings alone.

    A is the normalised adjacency D_i^(-1/2) X^T D_u^(-1/2) X D_i^(-1/2), divided by its largest eigenvalue, with an ideal
    low-pass filter mixed in where ``ideal_weight`` is above 0. Ours is ``filter: ease``: A is EASE's item-item matrix B (Steck,
    WWW 2019), so that the denoiser is conditioned on the strongest simple model's scores x B, and the reverse pass starts from
    them: F_T(x) = x B for ``smoothing_strength: 1``. B's eigenvalues are not in [0, 1], and F_t no longer smooths, but nothing
    of training or scoring needs that. With ``time-aware`` a user's items are weighted in time order (T-EASE's and T-DiffRec's
    weights), and the weighted row takes x's place everywhere but in A.

    ``positive_start`` is ours, too: as published, chance decides whether the denoiser begins with the wrong sign of similarity,
    on a plateau that some seeds leave late (see :class:`GiffDenoiser`).

    Departures from the paper: none known. From the official code (TensorFlow): recall there divides by min(k, n), ours by n;
    a single learning rate, as in its settings. ``sampling_steps`` below ``steps`` skips steps; 1 is a single pass.
    """

    input_type = InputType.LISTWISE
    settings_class = GiffCFSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = self.settings_class.read(config)
        self.read_histories(dataset)
        self.filter = _ease_filter(config, dataset) if s.filter == "ease" else _adjacency_filter(dataset, s)
        self.process, self.scoring_process = (
            GraphHeat(smooth, s.steps, s.smoothing_strength, s.decay) for smooth in (self.filter, deferred)
        )
        self.network = GiffDenoiser(self.n_items - 1, s.embedding_size, s.latent, s.positive_start)
        accelerate(config, self.network)

    def read_histories(self, dataset: Any) -> None:
        """Takes the users' rows from another part of the data (see :mod:`recbole_diffusion.adapter.eval_input`)."""
        weights = (self.settings.w_min, self.settings.w_max) if self.settings.time_aware else None
        self.rows = InteractionRows.from_dataset(dataset, weights).to(self.device)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The squared error of x0_hat at a uniform step, summed over items, mean over users."""
        crow, col, val = x = self.rows.sparse(interaction[self.USER_ID])
        thinned = crow, col, nn.functional.dropout(val, self.settings.dropout)  # the zeros of a row stay zeros
        x_0 = densified(x, self.n_items - 1)
        t = torch.randint(self.settings.steps, (len(x_0),), device=val.device)
        z = self.process.q_sample(x_0, t, self.filter.of_sparse(x)) if self.settings.latent else x_0
        c = densified(thinned, self.n_items - 1)
        x0_hat = self.network(z, c, self.filter.of_sparse(thinned), t, self.network.embed(c))
        return squared_error(x0_hat, x_0).mean()

    @property
    def network_calls(self) -> int:
        """How often a user goes through the network for its scores."""
        return self.settings.sampling_steps

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        self._score_in(self.settings.sampling_steps, users, out)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """What a single pass changes of the scores of all ``sampling_steps``, over up to 256 users.

        ``one_pass_score_difference`` is the largest change; ``score_spread`` the standard deviation of a user's scores, the
        median of them; ``one_pass_same_top10`` the share of the ten best items that stay so.
        """
        training = self.training
        self.eval()
        users = self.rows.occupied()
        users = users[torch.linspace(0, len(users) - 1, min(len(users), SAMPLE)).long()]
        one, whole = (torch.empty(len(users), self.n_items - 1, device=self.device) for _ in range(2))
        self._score_in(1, users, one)
        self.score_rows(users, whole)
        self.train(training)
        difference, same = change_of_scores(one, whole)
        spread = float(whole.std(1).median())
        return {"one_pass_score_difference": difference, "score_spread": spread, "one_pass_same_top10": same}

    def _score_in(self, n_steps: int, users: torch.Tensor, out: torch.Tensor) -> None:
        rows = self.rows.sparse(users)
        x, smoothed = densified(rows, self.n_items - 1), self.filter.of_sparse(rows)
        codes = self.derived(self.network.parameters(), self._codes) if self.settings.latent else None
        embedded = self.network.embed(x)

        def denoise(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return _in_parts(self.network(z.flatten(1), x, smoothed, t, embedded, codes))

        grid = time_grid(self.scoring_process, n_steps)
        z = stepwise(denoise, _in_parts(self.process.prior(x, smoothed)), self.scoring_process, grid)
        torch.add(z[:, 0], self.filter(z[:, 1]), out=out)

    def _codes(self) -> torch.Tensor:
        """W and A W, ``[2 n, width]``."""
        return torch.cat([self.network.table, self.filter.of_columns(self.network.table)])


def _in_parts(x: torch.Tensor) -> torch.Tensor:
    """Rows ``[B, n]`` as ``[B, 2, n]``; see :func:`recbole_diffusion.diffusion.heat.deferred`."""
    return torch.stack([x, torch.zeros_like(x)], 1)


def _adjacency_filter(dataset: Any, settings: GiffCFSettings) -> DenseFilter | FactorFilter | _WithLowPass:
    """The published A."""
    matrix = InteractionRows.from_dataset(dataset).scipy()
    factor = degree_normalised(matrix, user_power=0.25)
    rank = settings.ideal_cutoff if settings.ideal_weight > 0 else 1
    values, vectors = top_right_vectors(factor, rank)
    smooth = gram_filter(factor / float(values[0]))
    if settings.ideal_weight == 0:
        return smooth
    return _WithLowPass(smooth, vectors, settings.ideal_weight)


def _ease_filter(config: Any, dataset: Any) -> DenseFilter:
    """EASE's item-item matrix, without the padding item."""
    return DenseFilter(torch.as_tensor(EASE(config, dataset).item_similarity, dtype=torch.float32)[1:, 1:].contiguous())


class _WithLowPass(nn.Module):
    """x -> (x A + w x V V^T) / (1 + w)."""

    def __init__(self, smooth: DenseFilter | FactorFilter, vectors: torch.Tensor, weight: float) -> None:
        super().__init__()
        self.smooth, self.codes, self.weight = smooth, DenseFilter(vectors), weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._sum(self.smooth(x), self.codes(x))

    def of_sparse(self, rows: SparseRows) -> torch.Tensor:
        return self._sum(self.smooth.of_sparse(rows), self.codes.of_sparse(rows))

    def of_columns(self, table: torch.Tensor) -> torch.Tensor:
        return self(table.T).T

    def _sum(self, smoothed: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return torch.add(smoothed, codes @ self.codes.matrix.T, alpha=self.weight) / (1 + self.weight)


class _Mixer(nn.Module):
    """The same small network for every entry of several ``[B, n]`` (or ``[B, 1]``): inputs -> 2 -> 1, swish between them.

    The entries lie in one row per input, ``[inputs, B n]``, whose products a BLAS makes in half of the time that ``nn.Linear``
    takes with a row per entry.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.hidden, self.output = mlp([inputs, 2, 1], "silu")[::2]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """``[B, n]``."""
        rows = torch.stack(torch.broadcast_tensors(*inputs))
        hidden = nn.functional.silu(torch.addmm(self.hidden.bias[:, None], self.hidden.weight, rows.flatten(1)))
        return torch.addmm(self.output.bias[:, None], self.output.weight, hidden).view(rows.shape[1:])
