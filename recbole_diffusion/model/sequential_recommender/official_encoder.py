"""The history encoder of DreamRec's official code, and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn


class OfficialEncoder(nn.Module):
    """One layer of causal self-attention, as the official code has it (``Tenc.cacu_h``; Yang et al. 2023, section 3.2).

    With e_i the embedding of item i of the history and p_i that of its position, s_i = e_i + p_i, and at position n
    (LN: LayerNorm, each with weights of its own; h heads of width d / h)

    - q = LN_1(s_n);
    - a = sum over i <= n of softmax_i(W_q q . W_k s_i / sqrt(d)) W_v s_i, head by head: keys and values are not normalised,
      and the scale is sqrt(d) whatever the number of heads;
    - z = LN_2(q + a): the residual is the *normalised* query, and there is no output projection;
    - c = LN_3(LN_4(z + W_2 relu(W_1 z))), the feed-forward layer as wide as the embeddings.

    A padding item is known by its embedding, which is zero. It is no key, and what is read at its position, the condition of an
    empty history, is LN_3(0), a learnt constant.

    Two details of the official code are left out. It multiplies the attention by the sign of ``|sum of q|``, which is 1
    unless rounding makes that sum exactly 0. It draws the padding item's embedding at random and then masks it.

    Args:
        dim: d, width of embeddings and output, a multiple of ``n_heads``.
        max_length: longest history.
        n_heads: the official code: 1.
        hidden_dropout, attn_dropout: dropout probabilities of s and of the feed-forward layer, and of the attention's
            weights; the official code has one for both.
    """

    def __init__(
        self, dim: int, max_length: int, n_heads: int = 1, hidden_dropout: float = 0.1, attn_dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        # The names are the official ones, for from_official.
        self.positional_embeddings = nn.Embedding(max_length, dim)
        self.ln_1, self.ln_2, self.ln_3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mh_attn = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("linear_q", "linear_k", "linear_v")})
        self.feed_forward = nn.ModuleDict(
            {"w_1": nn.Linear(dim, dim), "w_2": nn.Linear(dim, dim), "layer_norm": nn.LayerNorm(dim)}
        )
        self.hidden_dropout, self.attn_dropout = nn.Dropout(hidden_dropout), nn.Dropout(attn_dropout)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Encodes the history up to every position.

        Args:
            embedded: item embeddings ``[B, L, dim]``, zero padding on the right.

        Returns:
            ``[B, L, dim]``; position n is a function of the items up to n.
        """
        sequence, is_item = self._sequence(embedded)
        causal = torch.ones(embedded.shape[1], embedded.shape[1], dtype=torch.bool, device=embedded.device).tril()
        return self._read(sequence, sequence, causal & is_item[:, None], is_item)

    def last(self, embedded: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Encodes whole histories: :meth:`forward` at the last item alone.

        Args:
            embedded: as for :meth:`forward`.
            length: items per history ``[B]``; 0 or 1 for an empty one.

        Returns:
            Condition vectors ``[B, dim]``.
        """
        sequence, is_item = self._sequence(embedded)
        last = length.clamp(min=1)[:, None] - 1
        keys = is_item & (torch.arange(embedded.shape[1], device=embedded.device) <= last)
        query = sequence.gather(1, last[..., None].expand(-1, -1, sequence.shape[2]))
        return self._read(query, sequence, keys[:, None], is_item.gather(1, last)).squeeze(1)

    def _sequence(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """s ``[B, L, dim]``, zero at padding, and where it is not padding ``[B, L]``."""
        is_item = (embedded != 0).any(-1)
        index = torch.arange(embedded.shape[1], device=embedded.device)
        return self.hidden_dropout(embedded + self.positional_embeddings(index)) * is_item[..., None], is_item

    def _read(
        self, asked: torch.Tensor, sequence: torch.Tensor, keys: torch.Tensor, is_item: torch.Tensor
    ) -> torch.Tensor:
        """c at the positions of ``asked [B, Q, dim]``, whose keys are ``keys [B, Q or 1, L]``; ``is_item [B, Q]``."""
        query = self.ln_1(asked)
        z = self.ln_2(query + self._attend(query, sequence, keys))
        wide = torch.relu(self.feed_forward["w_1"](z))
        c = self.feed_forward["layer_norm"](z + self.hidden_dropout(self.feed_forward["w_2"](wide)))
        return self.ln_3(c * is_item[..., None])

    def _attend(self, query: torch.Tensor, sequence: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.mh_attn[name](x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for name, x in (("linear_q", query), ("linear_k", sequence), ("linear_v", sequence))
        )
        logits = q @ k.transpose(2, 3) / query.shape[2] ** 0.5
        # A finite limit: a row without keys (an empty history, masked later) must not become NaN.
        logits = logits.masked_fill(~keys[:, None], torch.finfo(logits.dtype).min)
        return (self.attn_dropout(logits.softmax(-1)) @ v).transpose(1, 2).flatten(2)


def from_official(weights: Mapping[str, torch.Tensor], tokens: Sequence[str]) -> dict[str, torch.Tensor]:
    """The state of our DreamRec with ``encoder: official`` from the official code's ``state_dict()``.

    ``model.load_state_dict(from_official(torch.load(file, weights_only=True), dataset.field2id_token["item_id"]))``

    Args:
        weights: of the official ``Tenc`` with the denoiser ``mlp1`` or ``mlp2``.
        tokens: the data set's item ids by their internal number, padding first; ``recbole-diffusion convert --from dreamrec``
            keeps the official ids.

    Returns:
        For ``load_state_dict`` of a model of the same width, history length, number of heads and denoiser.
    """
    items = torch.tensor([int(token) for token in tokens[1:]])
    embeddings = weights["item_embeddings.weight"]
    state = {
        "item_embedding.weight": torch.cat([torch.zeros_like(embeddings[:1]), embeddings[items]]),
        "no_history": weights["none_embedding.weight"][0],
    }
    names = {"step_mlp.1.": "network.time_net.0.", "step_mlp.3.": "network.time_net.2."}
    names |= {"diffuser.0.": "network.net.0.", "diffuser.2.": "network.net.2."}
    if "diffuser.2.weight" not in weights:
        names["diffuser.0."] = "network.net."
    names |= {f"{part}.": f"encoder.{part}." for part in ("positional_embeddings", "ln_1", "ln_2", "ln_3", "mh_attn")}
    names |= {"feed_forward.": "encoder.feed_forward."}
    for name, weight in weights.items():
        for theirs, ours in names.items():
            if name.startswith(theirs):
                # Their feed-forward layer is a convolution of width 1.
                state[ours + name.removeprefix(theirs)] = weight.squeeze(-1) if weight.dim() == 3 else weight
    return state
