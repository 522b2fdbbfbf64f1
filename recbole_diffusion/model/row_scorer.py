"""What general models share that score all items of a user at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recbole_diffusion.model.accelerate import aligned_rows


class RowScorer:
    """Mixin before RecBole's ``GeneralRecommender``: its two scoring methods, from one that scores users.

    Attributes:
        score_rows: of the model: writes the scores of ``users`` ``[B]`` into ``out`` ``[B, n_items - 1]``, column ``j``
            item ``j + 1``.
    """

    score_rows: Callable[[torch.Tensor, torch.Tensor], None]
    USER_ID: str
    ITEM_ID: str
    n_items: int

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Scores ``[B, n_items]``; the padding item's is -inf."""
        return self._score(interaction[self.USER_ID])

    def predict(self, interaction: Any) -> torch.Tensor:
        """Scores of user-item pairs ``[B]``; each user is scored once, however many items are asked for."""
        users, inverse = torch.unique(interaction[self.USER_ID], return_inverse=True)
        return self._score(users)[inverse, interaction[self.ITEM_ID]]

    @torch.no_grad()
    def _score(self, users: torch.Tensor) -> torch.Tensor:
        scores = aligned_rows(len(users), self.n_items, users.device)
        scores[:, 0] = -torch.inf
        self.score_rows(users, scores[:, 1:])
        return scores
