"""RecBole's training rows of a sequential data set, one for each prefix of a user's sequence, cut at once.

RecBole 1.2.1 fills the padded histories of a sequential data set one row and one column at a time
(data/dataset/sequential_dataset.py:142), which takes most of the time that reading the data takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

from recbole_diffusion.adapter.patch import replace


def install() -> None:
    """Gives RecBole's sequential data sets their rows without a loop over them; calling it again changes nothing."""
    replace(SequentialDataset, "data_augmentation", _make_data_augmentation)


def _make_data_augmentation(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same rows and columns as RecBole's."""

    def data_augmentation(self: Any) -> None:
        target, length = cut_prefixes(self)
        ordered, self.inter_feat = self.inter_feat, self.inter_feat[target]
        lists = histories(self, ordered, ordered.columns, target, length)
        self.inter_feat.update(Interaction({self.item_list_length_field: length, **lists}))

    return data_augmentation


def cut_prefixes(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorts a data set's interactions by user and time; a row is each that has one before it.

    Args:
        data: a ``SequentialDataset``; ``inter_feat`` holds its interactions, and is sorted.

    Returns:
        The targets' places among the interactions ``[rows]``, and the lengths of the histories before them ``[rows]``, at
        most ``MAX_ITEM_LIST_LENGTH``.
    """
    data._aug_presets()
    data._check_field("uid_field", "time_field")
    data.sort(by=[data.uid_field, data.time_field], ascending=True)
    first = run_starts(data.inter_feat[data.uid_field].numpy())
    target = np.flatnonzero(np.arange(len(first)) > first)
    length = np.minimum(target - first[target], data.max_item_list_len)
    return torch.from_numpy(target), torch.from_numpy(length)


def histories(
    data: Any, ordered: Interaction, fields: Iterable[str], target: torch.Tensor, length: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The padded columns of histories, ``[rows, MAX_ITEM_LIST_LENGTH]`` or, of a column of lists or pairs, with their width.

    Args:
        data: the ``SequentialDataset``, which knows the columns' names.
        ordered: all interactions by user and time.
        fields: columns of ``ordered``; the user's has no history.
        target: ``[rows]``; see :func:`cut_prefixes`.
        length: ``[rows]``; see :func:`cut_prefixes`.
    """
    longest = int(length.max()) if len(length) else 0
    column = torch.arange(longest)
    outside = column >= length[:, None]
    place = ((target - length)[:, None] + column).clamp(max=len(ordered) - 1)
    lists = {}
    for field in fields:
        if field != data.uid_field:
            values = ordered[field][place]
            values[outside] = 0
            right = [0, 0] * (values.dim() - 2) + [0, data.max_item_list_len - longest]
            lists[getattr(data, f"{field}_list_field")] = torch.nn.functional.pad(values, right)
    return lists


def run_starts(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Index of the first entry of the run of equal values that each entry is in, ``[n]``."""
    begins = np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]
    return np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))
