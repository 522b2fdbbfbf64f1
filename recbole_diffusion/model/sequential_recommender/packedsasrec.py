"""SASRec trained at every position: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.sequential_recommender.next_item import NextItemRecommender, NextItemSettings
from recbole_diffusion.model.sequential_recommender.transformer import (
    CausalTransformer,
    EncodesByTransformer,
    TransformerSettings,
    init_normal,
)
from recbole_diffusion.settings import setting


@dataclasses.dataclass(frozen=True)
class PackedSASRecSettings(NextItemSettings, TransformerSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/PackedSASRec.yaml``."""

    layer_norm_eps: float = setting(gt=0)
    initializer_range: float = setting(gt=0)


class PackedSASRec(EncodesByTransformer, NextItemRecommender):
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
        init_normal(self, s.initializer_range)
        self._prepare_loss(s, dataset)
        accelerate(config, self.encoder)
