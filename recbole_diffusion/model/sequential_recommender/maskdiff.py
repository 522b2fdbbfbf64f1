"""MaskDiff: absorbing (masked) diffusion of sequences of items, after D3PM (Austin et al. 2021), MDLM (Sahoo et al. 2024)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from recbole_diffusion.diffusion.absorbing import AbsorbingDiffusion
from recbole_diffusion.diffusion.denoisers import FastDropout
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy
from recbole_diffusion.model.sequential_recommender.causal import TARGETS
from recbole_diffusion.model.sequential_recommender.next_item import EmbeddingScorer
from recbole_diffusion.model.sequential_recommender.transformer import Layer, TransformerSettings, init_normal
from recbole_diffusion.settings import setting


@dataclasses.dataclass(frozen=True)
class MaskDiffSettings(TransformerSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/MaskDiff.yaml``."""

    steps: int = setting(ge=1)
    initializer_range: float = setting(gt=0)


class MaskDiff(EmbeddingScorer):
    """Masked diffusion of the sequence (ours): BERT4Rec with a random masking rate r and the weight 1/r, which make an ELBO.

    Training: t ~ U{1..T} for each sequence, each item masked with probability r = t / T, and the loss is 1 / (r L) times the
    cross-entropy at the masked places, L the sequence's length: the negative ELBO per item of absorbing diffusion, which
    BERT4Rec's fixed rate and unweighted mean are not. Scoring: one mask after the history. For a single token all T steps
    draw from the distribution of one pass, so **one pass is exact** and there is no sampler to choose
    (:mod:`recbole_diffusion.diffusion.absorbing`).

    The network is a bidirectional post-norm Transformer with learnt positions, which count from the last token so that the
    mask always has the same; its output is multiplied with the item embeddings (BERT4Rec has a dense layer and a bias
    between). Sequences longer than a window are cut into windows.
    """

    settings_class = MaskDiffSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = MaskDiffSettings.read(config)
        d = s.hidden_size
        self.item_embedding = nn.Embedding(self.n_items, d, padding_idx=0)
        self.mask_embedding = nn.Parameter(torch.empty(d))
        self.position = nn.Embedding(self.max_seq_length + 1, d)
        self.norm, self.dropout = nn.LayerNorm(d), FastDropout(s.hidden_dropout_prob)
        sizes = d, s.n_heads, s.inner_size, s.hidden_dropout_prob, s.attn_dropout_prob, s.hidden_act
        self.layers = nn.ModuleList(Layer(*sizes, norm_first=False, eps=1e-5) for _ in range(s.n_layers))
        self.process = AbsorbingDiffusion(mask=self.n_items, rates=s.steps)
        init_normal(self, s.initializer_range)
        nn.init.normal_(self.mask_embedding, std=s.initializer_range)
        accelerate(config, *self.layers)

    def embedded(self, tokens: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """The first layer's input, ``[B, L]`` and lengths ``[B]`` -> ``[B, L, d]``; positions count from the last token."""
        mask = tokens == self.process.mask
        x = torch.where(mask[..., None], self.mask_embedding, self.item_embedding(tokens.masked_fill(mask, 0)))
        place = (length[:, None] - 1 - torch.arange(tokens.shape[1], device=length.device)).clamp(min=0)
        return self.dropout(self.norm(x + self.position(place)))

    def encode_last(self, items: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """The output at a mask after each history; histories ``[B, L]`` and their lengths ``[B]`` -> ``[B, d]``."""
        tokens = with_next(items, length, torch.full_like(length, self.process.mask))
        padding = torch.arange(tokens.shape[1], device=length.device) > length[:, None]
        x = self.embedded(tokens, length + 1)
        for layer in self.layers[:-1]:
            x = layer(x, padding)
        query = x.gather(1, length.view(-1, 1, 1).expand(-1, 1, x.shape[2]))
        return self.layers[-1].at(query, x, padding).squeeze(1)

    @property
    def network_calls(self) -> int:
        """How often a history goes through the Transformer for its scores."""
        return 1

    def query(self, interaction: Any) -> torch.Tensor:
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.encode_last(items[:, : max(int(length.max()), 1)], length)

    @torch.no_grad()
    def log_probabilities(self, interaction: Any) -> torch.Tensor:
        """log of the distribution of the next item over items 1, 2, ..., ``[B, n_items - 1]``."""
        return (self.query(interaction) @ self.item_embedding.weight[1:].T).log_softmax(1)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The estimate of the negative ELBO per item, mean over sequences."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if TARGETS in interaction:
            last = interaction[TARGETS].gather(1, length[:, None] - 1).squeeze(1)
        else:
            last = interaction[self.POS_ITEM_ID]
        tokens = with_next(items[:, : max(int(length.max()), 1)], length, last)
        # One t in each of B equal parts of the range: uniform for each row, and rates of the batch are spread evenly (MDLM).
        t = (torch.randperm(len(length), device=length.device) + torch.rand(len(length), device=length.device)) / len(length)
        t = (t * self.settings.steps).long().clamp(max=self.settings.steps - 1)
        return self.masked_loss(tokens, length + 1, t, torch.rand(tokens.shape, device=tokens.device))

    def masked_loss(self, tokens: torch.Tensor, length: torch.Tensor, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The loss of sequences ``[B, L]`` of lengths ``[B]`` for given steps ``[B]`` and uniform numbers ``[B, L]``."""
        padding = torch.arange(tokens.shape[1], device=tokens.device) >= length[:, None]
        x_t = self.process.q_sample(tokens, t, u).masked_fill(padding, 0)
        x = self.embedded(x_t, length)
        for layer in self.layers:
            x = layer(x, padding)
        masked = x_t == self.process.mask
        weight = (self.process.weight(t) / length / len(length)).to(x.dtype)[:, None].expand_as(masked)
        return item_cross_entropy(x[masked], self.item_embedding.weight, tokens[masked], weight[masked])


def with_next(items: torch.Tensor, length: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Histories ``[B, L]`` of lengths ``[B]`` with one more token each ``[B]`` -> ``[B, L + 1]``, padding on the right."""
    return nn.functional.pad(items, (0, 1)).scatter(1, length[:, None], following[:, None])
