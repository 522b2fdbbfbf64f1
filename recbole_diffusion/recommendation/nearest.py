"""Approximate search for the items with the largest inner product with a generated item or an encoded history."""

from __future__ import annotations

from typing import Any

import torch

from recbole_diffusion.model.sequential_recommender.next_item import EmbeddingScorer
from recbole_diffusion.settings import SettingsError

_NEIGHBOURS = 32  # links of an item in the graph
_BREADTH = 200  # candidates that are kept while the graph is built, and at least while it is searched


class ApproximateSearch:
    """The best items by inner product from a graph of items (Malkov and Yashunin's HNSW, in faiss), not from all of them.

    Args:
        model: a trained model that scores items by their embeddings' product with its ``query``, as DreamRec does.

    Raises:
        SettingsError: another model, or faiss is not installed.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, EmbeddingScorer):
            raise SettingsError(f"--approximate: {type(model).__name__} has no item embeddings to search; DreamRec has")
        try:
            import faiss
        except ImportError as error:
            raise SettingsError("--approximate needs the package faiss-cpu: pip install 'recbole_diffusion[ann]'") from error
        items = model.item_embedding.weight[1:].detach().float().cpu().numpy()
        self.model = model
        self.graph = faiss.IndexHNSWFlat(items.shape[1], _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        self.graph.hnsw.efConstruction = _BREADTH
        self.graph.add(items)

    def topk(self, interaction: Any, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids ``[B, k]`` of what it finds, best first; id 0 with score -inf where it finds fewer."""
        self.graph.hnsw.efSearch = max(_BREADTH, 2 * k)
        query = self.model.query(interaction)
        scores, rows = (torch.from_numpy(found) for found in self.graph.search(query.float().cpu().numpy(), k))
        found = rows >= 0
        return scores.masked_fill(~found, -torch.inf).to(query.device), ((rows + 1) * found).to(query.device)
