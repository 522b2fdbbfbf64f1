"""The Transformer that turns a history into a condition vector."""

from __future__ import annotations

import torch
from torch import nn

from recbole_diffusion.diffusion.denoisers import activation_layer


class HistoryEncoder(nn.Module):
    """Self-attention over a right-padded history, read out at its last item (section 3.2 of the DreamRec paper).

    Only the last position is read, so the last layer computes only that one: its cost does not grow with the square of
    the history's length. An empty history is read at position 0, whose padding embedding is zero, hence as one learnt
    vector.

    Args:
        dim: width of embeddings and output.
        max_length: longest history.
        n_layers, n_heads, inner_dim: size of the Transformer; ``dim`` is a multiple of ``n_heads``.
        hidden_dropout, attn_dropout: dropout probabilities.
        act: activation of the feed-forward layer.
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
    ) -> None:
        super().__init__()
        self.position = nn.Embedding(max_length, dim)
        self.dropout = nn.Dropout(hidden_dropout)
        self.layers = nn.ModuleList(Block(dim, n_heads, inner_dim, hidden_dropout, attn_dropout, act) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, embedded: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Encodes histories.

        Args:
            embedded: item embeddings ``[B, L, dim]``, padding on the right.
            length: items per history ``[B]``; 0 for an empty one.

        Returns:
            Condition vectors ``[B, dim]``.
        """
        last = length.clamp(min=1) - 1
        index = torch.arange(embedded.shape[1], device=embedded.device)
        padding = index > last[:, None]
        x = self.dropout(embedded + self.position(index))
        for layer in self.layers[:-1]:
            x = layer(x, x, padding)
        query = x.gather(1, last.view(-1, 1, 1).expand(-1, 1, x.shape[2]))
        return self.norm(self.layers[-1](query, x, padding)).squeeze(1)


class Block(nn.Module):
    """A pre-norm Transformer layer whose queries may be a part of the sequence."""

    def __init__(self, dim: int, n_heads: int, inner_dim: int, hidden_dropout: float, attn_dropout: float, act: str) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, n_heads, attn_dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, inner_dim), activation_layer(act), nn.Dropout(hidden_dropout), nn.Linear(inner_dim, dim)
        )
        self.dropout = nn.Dropout(hidden_dropout)

    def forward(self, query: torch.Tensor, sequence: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Attends from ``query [B, Q, dim]`` to ``sequence [B, L, dim]`` where ``padding [B, L]`` is False."""
        query = query + self.dropout(self.attention(self.norm_1(query), self.norm_1(sequence), padding))
        return query + self.dropout(self.feed_forward(self.norm_2(query)))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) arranged for few queries.

    q . (W_k x) = (W_k^T q) . x, and sum_l a_l W_v x_l = W_v sum_l a_l x_l: projecting queries and the weighted sums in
    place of keys and values costs O(Q d^2 + Q L d) instead of O(L d^2). Biases of keys cancel in the softmax, those of
    values are the output's.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key, self.value = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: torch.Tensor, sequence: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """``query [B, Q, d]``, ``sequence [B, L, d]``, ``padding [B, L]`` True where there is nothing -> ``[B, Q, d]``."""
        b, n_queries, d = query.shape
        heads = (self.n_heads, d // self.n_heads, d)
        q = self.query(query).view(b, n_queries, *heads[:2]) / heads[1] ** 0.5
        folded = torch.einsum("bqhe,hed->bqhd", q, self.key.weight.view(heads)).reshape(b, -1, d)
        logits = (folded @ sequence.transpose(1, 2)).masked_fill(padding[:, None], -torch.inf)
        pooled = (self.dropout(logits.softmax(-1)) @ sequence).view(b, n_queries, self.n_heads, d)
        attended = torch.einsum("bqhd,hed->bqhe", pooled, self.value.weight.view(heads))
        return self.output(attended.reshape(b, n_queries, d))
