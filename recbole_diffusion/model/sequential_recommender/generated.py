"""What models share that score items by their product with a generated embedding."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from recbole_diffusion.model.sequential_recommender.next_item import EmbeddingScorer

_SAMPLE = 256  # training histories that diagnostics are computed on


class GeneratedQuery(EmbeddingScorer):
    """Scores an item by its embedding's inner product with an embedding generated from the history.

    The noise is a function of the seed and the history, so that a score depends on neither the batch nor the device.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.noise_seed = config["seed"]
        self.keys = HistoryKeys(self.max_seq_length)
        rows = dataset[torch.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLE)).long()]
        self.sample = rows[self.ITEM_SEQ], rows[self.ITEM_SEQ_LEN]

    @abstractmethod
    def generate(self, items: torch.Tensor, length: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Generated embeddings ``[B, d]`` of histories ``[B, L]`` of lengths ``[B]``, with the keys of their noise ``[B]``."""

    @torch.no_grad()
    def query(self, interaction: Any) -> torch.Tensor:
        """What every item's embedding is multiplied with ``[B, d]``. Each distinct history is generated once."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items = items[:, : max(int(length.max()), 1)]
        keys, inverse = torch.unique(self.keys(items), return_inverse=True)
        if len(keys) == len(inverse):
            return self.generate(items, length, self.keys(items))
        position = torch.arange(len(inverse), device=inverse.device)
        first = position.new_full(keys.shape, len(inverse)).scatter_reduce(0, inverse, position, "amin")
        return self.generate(items[first], length[first], keys)[inverse]


class HistoryKeys(nn.Module):
    """A number for each history: same history, same number, hence same noise. A linear hash with odd multipliers."""

    multipliers: torch.Tensor

    def __init__(self, max_length: int) -> None:
        super().__init__()
        powers = torch.randint(2**62, (max_length,), generator=torch.Generator().manual_seed(0))
        self.register_buffer("multipliers", 2 * powers + 1, persistent=False)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Histories ``[B, L]``, padding 0 -> ``[B]``."""
        return (items * self.multipliers[: items.shape[1]]).sum(1)
