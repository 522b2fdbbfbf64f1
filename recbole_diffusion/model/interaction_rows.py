"""The interaction matrix as sparse rows on the model's device."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import nn

from recbole_diffusion.settings import SettingsError


class InteractionRows(nn.Module):
    """Rows of the user-item matrix in CSR form, built once; column ``j`` is item ``j + 1`` (RecBole's item 0 is padding).

    Args:
        matrix: ``[n_users, n_items]`` without the padding column.

    The buffers follow the module's device and are not saved: they are data, not a model.
    """

    crow: torch.Tensor
    col: torch.Tensor
    val: torch.Tensor
    cells: torch.Tensor | None

    def __init__(self, matrix: scipy.sparse.csr_matrix) -> None:
        super().__init__()
        matrix = matrix.sorted_indices()
        self.n_items = matrix.shape[1]
        self.longest = int(np.diff(matrix.indptr).max(initial=0))
        self.register_buffer("crow", torch.as_tensor(matrix.indptr, dtype=torch.long), persistent=False)
        self.register_buffer("col", torch.as_tensor(matrix.indices, dtype=torch.long), persistent=False)
        self.register_buffer("val", torch.as_tensor(matrix.data, dtype=torch.float32), persistent=False)
        # Number of each occupied cell, in order; made at the first question, because few models ask.
        self.register_buffer("cells", None, persistent=False)

    @classmethod
    def from_dataset(cls, dataset: Any, time_weights: tuple[float, float] | None = None) -> InteractionRows:
        """Reads a RecBole training part.

        Args:
            dataset: RecBole ``Dataset`` of the training interactions.
            time_weights: T-DiffRec's ``(w_min, w_max)``: a user's items are weighted evenly from the first to the last in
                time order (section 3.4 of the DiffRec paper); None weights every item 1.

        Raises:
            SettingsError: time weights without a time field.
        """
        users = dataset.inter_feat[dataset.uid_field].numpy()
        items = dataset.inter_feat[dataset.iid_field].numpy() - 1
        weights = np.ones(len(users), dtype=np.float32)
        if time_weights is not None:
            if dataset.time_field not in dataset.inter_feat:
                raise SettingsError(f"TIME_FIELD = {dataset.time_field!r}: the data has no such field; time weights need it")
            # RecBole's own sort is by exact time (adapter/time_order.py); the column itself has float32's steps of minutes.
            ordered = dataset.inter_feat[:]
            ordered.sort([dataset.uid_field, dataset.time_field])
            users, items = ordered[dataset.uid_field].numpy(), ordered[dataset.iid_field].numpy() - 1
            weights = _linear_by_rank(users, *time_weights)
        # A repeated interaction keeps its last weight: CSR conversion would add them up.
        _, last = np.unique((users * dataset.item_num + items)[::-1], return_index=True)
        keep = len(users) - 1 - last
        shape = (dataset.user_num, dataset.item_num - 1)
        return cls(scipy.sparse.csr_matrix((weights[keep], (users[keep], items[keep])), shape=shape))

    def scipy(self) -> scipy.sparse.csr_matrix:
        """The matrix itself, ``[n_users, n_items]`` float32."""
        parts = self.val.cpu().numpy(), self.col.cpu().numpy(), self.crow.cpu().numpy()
        return scipy.sparse.csr_matrix(parts, shape=(len(self.crow) - 1, self.n_items))

    def transposed(self) -> InteractionRows:
        """The item-user matrix ``[n_items + 1, n_users - 1]``: row ``j`` is RecBole's item ``j``, column ``u`` user ``u+1``."""
        values, (row, column) = self.val.cpu().numpy(), (self.col.cpu().numpy() + 1, self.owners().cpu().numpy() - 1)
        return InteractionRows(scipy.sparse.csr_matrix((values, (row, column)), shape=(self.n_items + 1, len(self.crow) - 2)))

    def occupied(self) -> torch.Tensor:
        """The rows that have an interaction, ``[n]`` in order."""
        return self.crow.diff().nonzero()[:, 0]

    def owners(self) -> torch.Tensor:
        """The row of every interaction, ``[nnz]``, in the order of ``col``."""
        return torch.repeat_interleave(self.crow.diff())

    def contains(self, users: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Whether the rows ``users`` ``[B]`` have an interaction in ``columns`` ``[B, k]``."""
        if len(self.col) == 0:
            return torch.zeros_like(columns, dtype=torch.bool)
        if self.cells is None:
            self.cells = self.owners() * self.n_items + self.col
        asked = users[:, None] * self.n_items + columns
        return self.cells[torch.searchsorted(self.cells, asked).clamp(max=len(self.cells) - 1)] == asked

    def sparse(self, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows of ``users`` ``[B]`` as CSR parts ``(crow [B+1], col [nnz], val [nnz])``."""
        start, length = self.crow[users], self.crow[users + 1] - self.crow[users]
        crow = torch.cat([length.new_zeros(1), length.cumsum(0)])
        row = torch.repeat_interleave(length)
        position = torch.arange(len(row), device=row.device) - crow[row] + start[row]
        return crow, self.col[position], self.val[position]

    def dense(self, users: torch.Tensor) -> torch.Tensor:
        """Rows of ``users`` ``[B]`` as a dense matrix ``[B, n_items]``, the transposed view of one with a row per item."""
        start, length = self.crow[users, None], (self.crow[users + 1] - self.crow[users])[:, None]
        # As many places for everyone as the longest history has, so that no size waits for the device. Places past the end
        # of a history write its first item once more; an empty history writes a zero.
        place = torch.arange(self.longest, device=users.device)
        index = (start + torch.where(place < length, place, 0)).clamp(max=max(len(self.col) - 1, 0))
        rows = self.val.new_zeros(self.n_items, len(users)).T
        return rows.scatter_(1, self.col[index], self.val[index] * (length > 0))


def _linear_by_rank(users: np.ndarray, low: float, high: float) -> np.ndarray:
    """``linspace(low, high, n)`` within each run of equal users; a single item gets ``low``, as numpy's linspace does."""
    _, start, count = np.unique(users, return_index=True, return_counts=True)
    rank = np.arange(len(users)) - np.repeat(start, count)
    return (low + (high - low) * rank / np.repeat(np.maximum(count - 1, 1), count)).astype(np.float32)
