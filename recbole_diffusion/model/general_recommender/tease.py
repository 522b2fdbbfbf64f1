"""EASE that scores time-weighted rows: a simple baseline with T-DiffRec's input."""

from __future__ import annotations

import dataclasses
from typing import Any

import scipy.sparse
import torch
from recbole.model.general_recommender import EASE

from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.settings import Settings, SettingsError, setting


@dataclasses.dataclass(frozen=True)
class TEASESettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/TEASE.yaml``."""

    reg_weight: float = setting(gt=0)
    w_min: float = setting(ge=0)
    w_max: float = setting(gt=0)

    def __post_init__(self) -> None:
        if self.w_min > self.w_max:
            raise SettingsError(f"w_min = {self.w_min!r}: must be <= w_max = {self.w_max!r}")


class TEASE(EASE):
    """T-EASE: EASE (Steck, WWW 2019) that scores rows whose items are weighted by time order, the newest the most.

    Of no paper: it is what T-DiffRec has to beat, since both see the same. The item-item weights are RecBole's EASE, fitted to
    0/1 rows; only the row that they are multiplied with is T-DiffRec's, linear from ``w_min`` to ``w_max`` in time order
    (section 3.4 of the DiffRec paper). Fitting to the weighted rows as well was worse on validation on ML-1M.
    """

    settings_class = TEASESettings

    def __init__(self, config: Any, dataset: Any) -> None:
        self.settings = self.settings_class.read(config)
        super().__init__(config, dataset)
        self.read_histories(dataset)

    def read_histories(self, dataset: Any) -> None:
        """Takes the users' rows from another part of the data (see :mod:`recbole_diffusion.adapter.eval_input`)."""
        rows = InteractionRows.from_dataset(dataset, (self.settings.w_min, self.settings.w_max))
        parts = rows.val.numpy(), rows.col.numpy() + 1, rows.crow.numpy()
        self.interaction_matrix = scipy.sparse.csr_matrix(parts, shape=(self.n_users, self.n_items))

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Scores ``[B, n_items]``; the padding item's is -inf."""
        scores = super().full_sort_predict(interaction).view(-1, self.n_items).to(self.device)
        scores[:, 0] = -torch.inf
        return scores
