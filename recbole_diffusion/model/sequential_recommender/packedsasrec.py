"""SASRec trained at every position: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.sequential_recommender.next_item import NextItemRecommender, NextItemSettings
from recbole_diffusion.model.sequential_recommender.transformer import CausalTransformer, TransformerSettings
from recbole_diffusion.settings import setting


@dataclasses.dataclass(frozen=True)
class PackedSASRecSettings(NextItemSettings, TransformerSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/PackedSASRec.yaml``."""

    layer_norm_eps: float = setting(gt=0)
    initializer_range: float = setting(gt=0)


class PackedSASRec(NextItemRecommender):
    """SASRec (ICDM 2018): self-attention, trained at every position of a sequence in one pass, as in its paper.

    The network is that of RecBole's SASRec, which trains on a row for each prefix: for the same targets loss and gradients are
    the same, in a small part of the time. Against the paper it has layers that normalise sums (post-norm), a GELU by
    default and no dropout inside the feed-forward network; against RecBole's, no biases of keys and values, which change
    nothing that the network can compute. Sequences longer than a window are cut into windows (the paper keeps the latest
    items alone), and positions count from a window's first item, as from a history's first one in evaluation.
    """

    settings_class = PackedSASRecSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = PackedSASRecSettings.read(config)
        self.item_embedding = nn.Embedding(self.n_items, s.hidden_size, padding_idx=0)
        self.encoder = CausalTransformer(
            s.hidden_size, self.max_seq_length, s.n_layers, s.n_heads, s.inner_size, s.hidden_dropout_prob,
            s.attn_dropout_prob, s.hidden_act, norm_first=False, eps=s.layer_norm_eps,
        )  # fmt: skip
        self.apply(self._init_weights)
        self._prepare_loss(s, dataset)
        accelerate(config, self.encoder)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.settings.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def encode(self, items: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.item_embedding(items))

    def encode_last(self, items: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        return self.encoder.last(self.item_embedding(items), length)
