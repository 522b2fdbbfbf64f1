"""What each user has had, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class ItemLists:
    """Lists of items, one after the other.

    Attributes:
        items: ``[n]``, internal ids, oldest first within a list.
        start: ``[lists + 1]``, where in ``items`` each list begins; the last entry is n.
    """

    items: Array
    start: Array

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> ItemLists:
        """Joins lists of ids."""
        items = np.array([item for items in lists for item in items], dtype=np.int64)
        return cls(items, np.cumsum([0, *map(len, lists)]))

    def lengths(self) -> Array:
        """Of all lists."""
        return np.diff(self.start)

    def entries(self, numbers: Array) -> tuple[Array, Array]:
        """All items of the lists ``numbers`` ``[B]``: which of the B lists ``[m]``, and the item ``[m]``."""
        row, place = places(self.start[numbers], self.start[numbers + 1])
        return row, self.items[place]

    def latest(self, numbers: Array, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The last ``n`` items of the lists ``numbers`` ``[B]``, padding 0 on the right: ``[B, n]``, and how many ``[B]``."""
        stop = self.start[numbers + 1]
        begin = np.maximum(self.start[numbers], stop - n)
        row, place = places(begin, stop)
        padded = np.zeros((len(numbers), n), dtype=np.int64)
        padded[row, place - begin[row]] = self.items[place]
        return torch.from_numpy(padded), torch.from_numpy(stop - begin)


def places(start: Array, stop: Array) -> tuple[Array, Array]:
    """The ranges from ``start`` ``[B]`` to ``stop`` ``[B]`` in a line: which range each entry is of, and the entry."""
    count = stop - start
    row = np.repeat(np.arange(len(start)), count)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + start[row]


def items_of_users(parts: Sequence[Any]) -> tuple[ItemLists, Array]:
    """What every user has had in parts of the data: the items of the user's rows, in the order of the parts and their rows.

    A user of a sequential data set has had, before them, the history of the first of these rows. RecBole orders the rows of a
    part when it splits by time; given parts are taken in the order of their files.

    Args:
        parts: RecBole ``Dataset`` of each.

    Returns:
        A list for every internal user id; and for every row of the parts, its item's place in the lists' ``items``.
    """
    first = parts[0]
    user, item = (
        np.concatenate([part.inter_feat[field].numpy() for part in parts]) for field in (first.uid_field, first.iid_field)
    )
    owner, opening = _opening_histories(parts, user) if isinstance(first, SequentialDataset) else (user[:0], item[:0])
    owner = np.concatenate([owner, user])
    order = np.argsort(owner, kind="stable")
    where = np.empty(len(order), dtype=np.int64)
    where[order] = np.arange(len(order))
    start = np.searchsorted(owner[order], np.arange(first.user_num + 1))
    return ItemLists(np.concatenate([opening, item])[order], start), where[len(opening) :]


def _opening_histories(parts: Sequence[Any], user: Array) -> tuple[Array, Array]:
    """Users ``[m]`` and items ``[m]`` of the history of each user's first row; ``user`` is that of every row."""
    list_field = parts[0].iid_field + parts[0].config["LIST_SUFFIX"]
    order = np.argsort(user, kind="stable")
    first = order[np.unique(user[order], return_index=True)[1]]
    begins = np.cumsum([0, *(len(part) for part in parts)])
    owners, items = [], []
    for part, before, after in zip(parts, begins, begins[1:], strict=False):
        inside = first[(before <= first) & (first < after)]
        if len(inside):  # read row by row: training rows may not keep their histories (sequences.py)
            history = part[torch.from_numpy(inside - before)][list_field].numpy()
            row, column = np.nonzero(history)
            owners.append(user[inside[row]])
            items.append(history[row, column])
    return np.concatenate([user[:0], *owners]), np.concatenate([user[:0], *items])
