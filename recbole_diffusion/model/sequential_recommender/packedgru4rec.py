"""GRU4Rec trained at every position: Hidasi et al., "Session-based Recommendations with RNNs", ICLR 2016."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from recbole_diffusion.diffusion.denoisers import FastDropout
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.sequential_recommender.next_item import NextItemRecommender, NextItemSettings
from recbole_diffusion.settings import setting


@dataclasses.dataclass(frozen=True)
class PackedGRU4RecSettings(NextItemSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/PackedGRU4Rec.yaml``."""

    embedding_size: int = setting(ge=1)
    hidden_size: int = setting(ge=1)
    num_layers: int = setting(ge=1)
    dropout_prob: float = setting(ge=0, lt=1)


class PackedGRU4Rec(NextItemRecommender):
    """GRU4Rec (ICLR 2016): a recurrent network, trained at every position of a sequence in one pass.

    The network is that of RecBole's GRU4Rec, which trains on a row for each prefix: for the same targets loss and gradients
    are the same. A window of a long sequence is read from up to a window's length before its first target, so that targets at
    its beginning have a history as well.
    """

    settings_class = PackedGRU4RecSettings
    reads_before_window = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = PackedGRU4RecSettings.read(config)
        self.item_embedding = nn.Embedding(self.n_items, s.embedding_size, padding_idx=0)
        self.dropout = FastDropout(s.dropout_prob)
        self.gru = nn.GRU(s.embedding_size, s.hidden_size, s.num_layers, bias=False)
        self.dense = nn.Linear(s.hidden_size, s.embedding_size)
        nn.init.xavier_normal_(self.item_embedding.weight)
        nn.init.xavier_uniform_(self.gru.weight_hh_l0)
        nn.init.xavier_uniform_(self.gru.weight_ih_l0)
        self._prepare_loss(s, dataset)
        accelerate(config)

    def encode(self, items: torch.Tensor) -> torch.Tensor:
        return self.dense(self._states(items))

    def encode_last(self, items: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        return self.dense(self.gather_indexes(self._states(items), length.clamp(min=1) - 1))

    def _states(self, items: torch.Tensor) -> torch.Tensor:
        """Hidden states ``[B, L, hidden_size]``."""
        return self.gru(self.dropout(self.item_embedding(items.T)))[0].transpose(0, 1)
