"""What models share that score items by their product with a generated embedding."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from recbole_diffusion.model.diagnostics import SAMPLE, change_of_scores, collapse
from recbole_diffusion.model.sequential_recommender.next_item import EmbeddingScorer


class GeneratedQuery(EmbeddingScorer):
    """Scores an item by its embedding's inner product with an embedding generated from the history.

    The noise is a function of the seed and the history, so that a score depends on neither the batch nor the device.
    """

    settings: Any

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.noise_seed = config["seed"]
        self.keys = HistoryKeys(self.max_seq_length)
        rows = dataset[torch.linspace(0, len(dataset) - 1, min(len(dataset), SAMPLE)).long()]
        self.sample = rows[self.ITEM_SEQ], rows[self.ITEM_SEQ_LEN]

    @abstractmethod
    def generate(self, items: torch.Tensor, length: torch.Tensor, keys: torch.Tensor, sampler: str) -> torch.Tensor:
        """Generated embeddings ``[B, d]``.

        Args:
            items: histories ``[B, L]``, padding 0 on the right.
            length: their lengths ``[B]``.
            keys: what their noise is a function of, ``[B]``.
            sampler: ``loop``, ``one_pass``, or another one that the model knows.
        """

    @torch.no_grad()
    def query(self, interaction: Any) -> torch.Tensor:
        """What every item's embedding is multiplied with ``[B, d]``. Each distinct history is generated once."""
        histories, row = self.distinct(interaction)
        items, length = histories[self.ITEM_SEQ], histories[self.ITEM_SEQ_LEN]
        items = items[:, : max(int(length.max()), 1)]
        return self.generate(items, length, self.keys(items), self.settings.sampler)[row]

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """The largest change of any score when one pass takes the place of all steps, and what it is to be compared with.

        Over up to 256 training histories. ``score_spread``: the standard deviation of a history's scores, the median of them.
        ``one_pass_same_top10``: share of the ten best items that stay so. And whether the embeddings have collapsed.
        """
        training = self.training
        self.eval()
        items, length = (part.to(self.device) for part in self.sample)
        items = items[:, : max(int(length.max()), 1)]
        table = self.item_embedding.weight[1:]
        one, loop = (self.generate(items, length, self.keys(items), way) @ table.T for way in ("one_pass", "loop"))
        difference, same = change_of_scores(one, loop)
        self.train(training)
        return {
            "one_pass_score_difference": difference,
            "score_spread": float(loop.std(1).median()),
            "one_pass_same_top10": same,
            **collapse(table),
        }


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
