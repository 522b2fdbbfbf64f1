"""What DiffuRec, ADRec, BBDRec and FMRec share: a Transformer that reads the noisy next item beside the history.

In all four the network is f(h, x, t) = Transformer(h + lambda (x + tau(t))), with lambda = .001 as published. Whatever the
process does to x, the estimate of x_0 moves by O(lambda): one pass scores like the whole reverse process, and
``diagnostics()`` says how nearly.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import embedding

from recbole_diffusion.diffusion.denoisers import FastDropout, sinusoidal_embedding
from recbole_diffusion.diffusion.noise import Noise, keyed_noise
from recbole_diffusion.diffusion.process import Denoiser
from recbole_diffusion.diffusion.samplers import Grid, time_grid
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.sequential_recommender.causal import TARGETS
from recbole_diffusion.model.sequential_recommender.generated import GeneratedQuery
from recbole_diffusion.model.sequential_recommender.transformer import Layer, TransformerSettings
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class DenoisingSettings(TransformerSettings):
    """What each of the four is asked."""

    steps: int = setting(ge=1)
    lambda_noise: float = setting(ge=0)
    sampler: str = setting(choices=("loop", "one_pass"), scoring=True)
    sampler_steps: int | None = setting(ge=1, scoring=True)
    embedding_dropout_prob: float = setting(ge=0, lt=1)
    initializer_range: float = setting(gt=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler_steps is not None and self.sampler_steps > self.steps:
            raise SettingsError(f"sampler_steps = {self.sampler_steps!r}: must be <= steps = {self.steps!r}")


class TransformerDenoiser(nn.Module):
    """f(h, x, t) = Transformer(h + lambda (x + tau(t))), tau an MLP of sines and cosines of the time.

    Three ways to apply it: with a noisy item of its own at every position and causal attention (:meth:`forward`; and
    :meth:`prepare` to change the last position's alone, again and again), or with one noisy item for the whole history,
    attention in both directions and an estimate at the last position (:meth:`last`).

    Args:
        dim, n_layers, n_heads, inner_dim, hidden_dropout, attn_dropout, act, norm_first: as of
            :class:`~.transformer.CausalTransformer`, which this is without positions.
        weight: lambda.
        random_weight: draw lambda anew for every element while training, from N(lambda, lambda^2) (DiffuRec).
    """

    def __init__(
        self,
        dim: int,
        n_layers: int,
        n_heads: int,
        inner_dim: int,
        hidden_dropout: float,
        attn_dropout: float,
        act: str,
        norm_first: bool,
        weight: float,
        random_weight: bool,
    ) -> None:
        super().__init__()
        self.dim, self.weight, self.random_weight = dim, weight, random_weight
        self.time_net = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        self.layers = nn.ModuleList(
            Layer(dim, n_heads, inner_dim, hidden_dropout, attn_dropout, act, norm_first, 1e-5) for _ in range(n_layers)
        )
        self.output = nn.Sequential(FastDropout(hidden_dropout), nn.LayerNorm(dim)) if norm_first else nn.Identity()

    def mix(self, history: torch.Tensor, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """h + lambda (x + tau(t)): ``history [B, L, d]``; ``x [B, L, d]`` and ``time [B, L]``, or 1 in place of L."""
        noisy = x + self.time_net(sinusoidal_embedding(time, self.dim, "cos-sin", dtype=self.time_net[0].weight.dtype))
        if self.random_weight and self.training:
            return history + self.weight * (1 + torch.randn_like(history)) * noisy
        return history + self.weight * noisy

    def forward(self, history: torch.Tensor, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The estimate at every position, which reads no later one: ``[B, L, d]``, times ``[B, L]`` -> ``[B, L, d]``."""
        z = self.mix(history, x, time)
        for layer in self.layers:
            z = layer(z)
        return self.output(z)

    def prepare(self, history: torch.Tensor, x: torch.Tensor, time: torch.Tensor, last: torch.Tensor) -> Denoiser:
        """The same at the last positions alone, as a function of ``x [B, d]`` and ``time [B]`` there.

        Earlier positions do not see the last one: what they hold is computed once.

        Args:
            history, x, time: as in :meth:`forward`; what ``x`` and ``time`` are from the last position on is not read.
            last: index of each history's last position ``[B]``.
        """
        inputs, z = [], self.mix(history, x, time)
        for layer in self.layers:
            inputs.append(z)
            z = layer(z)
        later = torch.arange(history.shape[1], device=last.device) > last[:, None]
        index = last.view(-1, 1, 1).expand(-1, 1, self.dim)
        own = history.gather(1, index)

        def estimate(x_last: torch.Tensor, time_last: torch.Tensor) -> torch.Tensor:
            query = self.mix(own, x_last[:, None], time_last[:, None])
            for layer, held in zip(self.layers, inputs, strict=True):
                query = layer.at(query, held.scatter(1, index, query.to(held.dtype)), later)
            return self.output(query).squeeze(1)

        return estimate

    def last(self, history: torch.Tensor, x: torch.Tensor, time: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """One noisy item ``[B, d]``, with its time ``[B]``, at every position of a history -> ``[B, d]``.

        Attention is in both directions, to all positions but the padding.
        """
        return self.last_and_inner(history, x, time, length)[0]

    def last_and_inner(
        self, history: torch.Tensor, x: torch.Tensor, time: torch.Tensor, length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`last`, and what its last layer reads at that position, ``[B, d]``."""
        last = length.clamp(min=1) - 1
        padding = torch.arange(history.shape[1], device=last.device) > last[:, None]
        z = self.mix(history, x[:, None], time[:, None])
        for layer in self.layers[:-1]:
            z = layer(z, padding)
        query = z.gather(1, last.view(-1, 1, 1).expand(-1, 1, self.dim))
        return self.output(self.layers[-1].at(query, z, padding)).squeeze(1), query.squeeze(1)


class DenoisingRecommender(GeneratedQuery):
    """Generates the next item's embedding by a reverse process whose estimate of x_0 is a :class:`TransformerDenoiser`'s.

    A subclass has the process (:meth:`noised`, :meth:`reverse`, :meth:`clock`, :meth:`draw_times`) and the loss
    (:meth:`denoising_loss`). A causal one has a noisy item at each position, with a noise level of its own; positions without a
    target hold the clean item that comes next, at the least time. Otherwise each history has one noisy item.

    Attributes:
        norm_first: of the denoiser's layers.
        random_weight: see :class:`TransformerDenoiser`.
    """

    settings_class: ClassVar[type[DenoisingSettings]] = DenoisingSettings
    process: Any
    norm_first: ClassVar[bool] = False
    random_weight: ClassVar[bool] = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = self.settings_class.read(config)
        self.item_embedding = nn.Embedding(self.n_items, s.hidden_size, padding_idx=0)
        with torch.no_grad():
            self.item_embedding.weight.mul_(s.initializer_range)  # torch's are standard normal
        self.history_input = nn.Sequential(FastDropout(s.embedding_dropout_prob), nn.LayerNorm(s.hidden_size))
        self.denoiser = TransformerDenoiser(
            s.hidden_size, s.n_layers, s.n_heads, s.inner_size, s.hidden_dropout_prob, s.attn_dropout_prob, s.hidden_act,
            self.norm_first, s.lambda_noise, self.random_weight,
        )  # fmt: skip
        accelerate(config, self.denoiser)

    # ------------------------------------------------------------------------------------------ what a subclass says

    @property
    def causal(self) -> bool:
        """Whether each position has a noisy item of its own."""
        return True

    @abstractmethod
    def noised(self, x_0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """A draw of x_t: ``x_0 [..., d]``, ``t [...]``, standard normal ``eps`` and the encoded history, like ``x_0``."""

    @abstractmethod
    def reverse(self, denoise: Denoiser, state: torch.Tensor, grid: Grid, noise: Noise) -> torch.Tensor:
        """The reverse process for encoded histories ``[B, d]`` over ``grid`` -> ``[B, d]``."""

    @abstractmethod
    def denoising_loss(
        self, estimate: torch.Tensor, target: torch.Tensor, x_0: torch.Tensor, row: torch.Tensor, n_rows: int
    ) -> torch.Tensor:
        """The loss of estimates ``[N, d]`` of the targets ``[N]``, whose embeddings are ``x_0`` and whose rows ``row``."""

    def draw_times(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Times to train at, uniform on 0..T-1."""
        return torch.randint(self.settings.steps, shape, device=self.device)

    def clock(self, t: torch.Tensor) -> torch.Tensor:
        """The time as the network reads it: the step's number, stretched to a thousand steps."""
        return t * (1000 / self.settings.steps)

    # --------------------------------------------------------------------------------------------------- histories

    @property
    def items(self) -> torch.Tensor:
        """The embeddings of all items ``[n_items, d]``."""
        return self.item_embedding.weight

    def encode(self, items: torch.Tensor) -> torch.Tensor:
        """LN(dropout(E[h])): position by position, without positions."""
        return self.history_input(embedding(items, self.items, padding_idx=0))

    def encode_last(self, items: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        return _at(self.encode(items), length.clamp(min=1) - 1)

    def grid_of(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Histories and the target after each position, 0 where there is none: ``[B, L]`` each, as long as the longest."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN].clamp(min=1)
        items = items[:, : int(length.max())]
        if TARGETS in interaction:
            return items, interaction[TARGETS][:, : items.shape[1]]
        return items, torch.zeros_like(items).scatter(1, length[:, None] - 1, interaction[self.POS_ITEM_ID][:, None])

    def next_items(self, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The item after each position: its target, or what the history goes on with."""
        return torch.where(targets > 0, targets, nn.functional.pad(items[:, 1:], (0, 1)))

    # ---------------------------------------------------------------------------------------------------- training

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        items, targets = self.grid_of(interaction)
        return self._loss_at_positions(items, targets) if self.causal else self._loss_of_rows(items, targets)

    def _loss_at_positions(self, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        state, noisy = self.encode(items), targets > 0
        x_0 = embedding(self.next_items(items, targets), self.items, padding_idx=0)
        t = self.draw_times(targets.shape)
        x = torch.where(noisy[..., None], self.noised(x_0, t, torch.randn_like(x_0), state), x_0)
        time = self.clock(t).where(noisy, self._least_time())
        row, column = noisy.nonzero(as_tuple=True)
        estimate = self.denoiser(state, x, time)[row, column]
        return self.denoising_loss(estimate, targets[row, column], x_0[row, column], row, len(items))

    def _loss_of_rows(self, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        estimate, target, x_0, _ = self._estimates_of_rows(items, targets)
        return self.denoising_loss(estimate, target, x_0, torch.arange(len(items), device=items.device), len(items))

    def _estimates_of_rows(
        self, items: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each row the estimate, the target, its embedding, and what the last layer read."""
        last = targets.argmax(1)
        target = targets.gather(1, last[:, None]).squeeze(1)
        state = self.encode(items)
        x_0 = embedding(target, self.items)
        t = self.draw_times(target.shape)
        x_t = self.noised(x_0, t, torch.randn_like(x_0), _at(state, last))
        estimate, inner = self.denoiser.last_and_inner(state, x_t, self.clock(t), last + 1)
        return estimate, target, x_0, inner

    def _least_time(self) -> torch.Tensor:
        return self.clock(torch.zeros(1, dtype=torch.long, device=self.device))

    # --------------------------------------------------------------------------------------------------- generation

    @property
    def network_calls(self) -> int:
        """How often a history's last position goes through the Transformer for its scores."""
        s = self.settings
        return 1 if s.sampler == "one_pass" else s.sampler_steps or s.steps

    def generate(self, items: torch.Tensor, length: torch.Tensor, keys: torch.Tensor, sampler: str) -> torch.Tensor:
        """The reverse process; ``one_pass``: its first estimate of x_0, which is what it returns over a single step."""
        last = length.clamp(min=1) - 1
        state = self.encode(items)
        if self.causal:
            earlier = embedding(self.next_items(items, torch.zeros_like(items)), self.items)
            time = self._least_time().expand(items.shape)
            estimate = self.denoiser.prepare(state, earlier, time, last)
        else:
            estimate = lambda x, time: self.denoiser.last(state, x, time, length)  # noqa: E731
        grid = time_grid(self.process, 1 if sampler == "one_pass" else self.settings.sampler_steps)
        noise = keyed_noise(keys, self.noise_seed)
        return self.reverse(lambda x, t: estimate(x, self.clock(t)), _at(state, last), grid, noise)


def _at(states: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """``states [B, L, d]`` at one position of each row ``[B]`` -> ``[B, d]``."""
    return states.gather(1, position.view(-1, 1, 1).expand(-1, 1, states.shape[2])).squeeze(1)
