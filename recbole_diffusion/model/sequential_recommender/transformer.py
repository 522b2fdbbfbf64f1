"""The Transformer over a history of items, causal, at every position of it or at the last alone."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from recbole_diffusion.diffusion.denoisers import ACTIVATIONS, FastDropout, activation_layer
from recbole_diffusion.model.sequential_recommender.causal import CausalSettings
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class TransformerSettings(CausalSettings):
    """What every model with a Transformer over its history is asked."""

    n_layers: int = setting(ge=1)
    n_heads: int = setting(ge=1)
    hidden_size: int = setting(ge=1)
    inner_size: int = setting(ge=1)
    hidden_dropout_prob: float = setting(ge=0, lt=1)
    attn_dropout_prob: float = setting(ge=0, lt=1)
    hidden_act: str = setting(choices=tuple(ACTIVATIONS))

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise SettingsError(f"hidden_size = {self.hidden_size!r}: must be a multiple of n_heads = {self.n_heads!r}")


def init_normal(model: nn.Module, std: float) -> None:
    """Draws weights of linear layers and embeddings from a normal distribution; biases are 0. As RecBole's Transformers."""

    def init(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    model.apply(init)


class EncodesByTransformer:
    """Encodes histories by a :class:`CausalTransformer` over their items' embeddings; stands before a causal recommender."""

    item_embedding: nn.Embedding
    encoder: CausalTransformer

    def encode(self, items: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.item_embedding(items))

    def encode_last(self, items: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        return self.encoder.last(self.item_embedding(items), length)


class CausalTransformer(nn.Module):
    """Self-attention over right-padded histories with learnt positions, in which no item sees a later one.

    No mask of the padding is needed: it is later than every item. An empty history is read at position 0, so as one learnt
    vector if the padding's embedding is zero.

    Args:
        dim: width of embeddings and output.
        max_length: longest history.
        n_layers, n_heads, inner_dim: size of the Transformer; ``dim`` is a multiple of ``n_heads``.
        hidden_dropout, attn_dropout: dropout probabilities.
        act: activation of the feed-forward layers.
        norm_first: True normalises the input of each part of a layer, and the output of the last layer (DreamRec); False the
            input of the first layer, and the sum of each part and its input (SASRec as RecBole has it).
        eps: added to the variance in layer normalisation.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        n_layers: int = 1,
        n_heads: int = 1,
        inner_dim: int = 256,
        hidden_dropout: float = 0.1,
        attn_dropout: float = 0.1,
        act: str = "gelu",
        norm_first: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.position = nn.Embedding(max_length, dim)
        self.dropout = FastDropout(hidden_dropout)
        self.norm = nn.LayerNorm(dim, eps)
        self.layers = nn.ModuleList(
            Layer(dim, n_heads, inner_dim, hidden_dropout, attn_dropout, act, norm_first, eps) for _ in range(n_layers)
        )

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Encodes the history up to every position: item embeddings ``[B, L, dim]`` -> ``[B, L, dim]``."""
        x = self._with_positions(embedded)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) if self.norm_first else x

    def last(self, embedded: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Encodes whole histories: :meth:`forward` at the last item alone.

        The last layer computes only that position: its cost does not grow with the square of the history's length.

        Args:
            embedded: item embeddings ``[B, L, dim]``, padding on the right.
            length: items per history ``[B]``; 0 for an empty one.

        Returns:
            ``[B, dim]``.
        """
        last = length.clamp(min=1) - 1
        x = self._with_positions(embedded)
        for layer in self.layers[:-1]:
            x = layer(x)
        query = x.gather(1, last.view(-1, 1, 1).expand(-1, 1, x.shape[2]))
        later = torch.arange(x.shape[1], device=x.device) > last[:, None]
        x = self.layers[-1].at(query, x, later).squeeze(1)
        return self.norm(x) if self.norm_first else x

    def _with_positions(self, embedded: torch.Tensor) -> torch.Tensor:
        x = embedded + self.position.weight[: embedded.shape[1]]
        return self.dropout(x if self.norm_first else self.norm(x))


class Layer(nn.Module):
    """Attention, then a feed-forward network, each with a residual connection and a layer normalisation."""

    def __init__(
        self,
        dim: int,
        n_heads: int,
        inner_dim: int,
        hidden_dropout: float,
        attn_dropout: float,
        act: str,
        norm_first: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm_1, self.norm_2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attention = Attention(dim, n_heads, attn_dropout)
        self.feed_forward = nn.Sequential(nn.Linear(dim, inner_dim), activation_layer(act), nn.Linear(inner_dim, dim))
        self.dropout = FastDropout(hidden_dropout)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """``[B, L, dim]`` -> ``[B, L, dim]``: causal, or to all positions but the ``hidden [B, L]``."""
        return self._after_attention(x, self.attention(self.norm_1(x) if self.norm_first else x, hidden))

    def at(self, query: torch.Tensor, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The layer at some positions: ``query [B, Q, dim]`` out of ``x [B, L, dim]``, of which ``hidden [B, L]`` is unseen."""
        if self.norm_first:
            return self._after_attention(query, self.attention.at(self.norm_1(query), self.norm_1(x), hidden))
        return self._after_attention(query, self.attention.at(query, x, hidden))

    def _after_attention(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(attended)
        if self.norm_first:
            return x + self.dropout(self.feed_forward(self.norm_2(x)))
        x = self.norm_1(x)
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2), causal, bidirectional or for a few queries.

    Keys and values have no biases: those of keys cancel in the softmax, those of values are the output's.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.dropout = FastDropout(dropout)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Attention from each position of ``x [B, L, d]`` to those up to it, or to all but the ``hidden [B, L]``."""
        b, n, d = x.shape
        # On a CPU this and the dropout that draws bits are faster than torch's fused attention with its own.
        q = self.query(x).view(b, n, self.n_heads, -1).transpose(1, 2) * (d // self.n_heads) ** -0.5
        k, v = self.key_value(x).view(b, n, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        if hidden is None:
            mask = torch.full((n, n), -torch.inf, dtype=x.dtype, device=x.device).triu(1)
        else:
            mask = torch.zeros_like(hidden, dtype=x.dtype).masked_fill_(hidden, -torch.inf)[:, None, None]
        attended = self.dropout((q @ k.transpose(2, 3) + mask).softmax(-1)) @ v
        return self.output(attended.transpose(1, 2).reshape(b, n, d))

    def at(self, query: torch.Tensor, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Attention from ``query [B, Q, d]`` to ``x [B, L, d]``, except where ``hidden [B, L]`` -> ``[B, Q, d]``.

        q . (W_k x) = (W_k^T q) . x, and sum_l a_l W_v x_l = W_v sum_l a_l x_l: projecting queries and the weighted sums in
        place of keys and values costs O(Q d^2 + Q L d) instead of O(L d^2).
        """
        b, n_queries, d = query.shape
        heads = (self.n_heads, d // self.n_heads, d)
        key, value = (weight.view(heads) for weight in self.key_value.weight.chunk(2))
        q = self.query(query).view(b, n_queries, *heads[:2]) * heads[1] ** -0.5
        folded = torch.einsum("bqhe,hed->bqhd", q, key).reshape(b, -1, d)
        logits = (folded @ x.transpose(1, 2)).masked_fill(hidden[:, None], -torch.inf)
        pooled = (self.dropout(logits.softmax(-1)) @ x).view(b, n_queries, self.n_heads, d)
        attended = torch.einsum("bqhd,hed->bqhe", pooled, value)
        return self.output(attended.reshape(b, n_queries, d))
