"""Makes RecBole read given parts whose rows hold a history (``benchmark_filename`` with a column of item lists).

RecBole 1.2.1 cuts and pads the histories that it builds itself when it splits the data; histories that come with the
parts it takes as they are. :func:`install` gives these the same treatment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset

from recbole_diffusion.adapter.patch import replace

EMPTY_HISTORIES = ("pad", "drop")
"""Values of the setting ``empty_histories``; the first is the default, and what DreamRec's paper does."""


def install() -> None:
    """Hangs the treatment of histories into RecBole's data sets. Calling it again changes nothing.

    The setting ``empty_histories`` says what becomes of rows whose history is empty: ``pad`` gives them length 1, so
    that models read the padding at position 0, as DreamRec's own code does; ``drop`` leaves them out of every part.
    """
    replace(SequentialDataset, "_benchmark_presets", _make_benchmark_presets)
    replace(SequentialDataset, "_change_feat_format", _make_change_feat_format)


def _make_benchmark_presets(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Cuts given histories to their latest items, and treats empty ones.

    Symptoms without: ``index out of range`` in models with position embeddings for a history longer than
    ``MAX_ITEM_LIST_LENGTH``; ``index -1 is out of bounds`` from model/abstract_recommender.py:172 for an empty one.
    """

    def _benchmark_presets(self: Any) -> None:
        list_field = self.iid_field + self.config["LIST_SUFFIX"]
        if list_field not in self.inter_feat:
            raise ValueError(
                f"dataset {self.dataset_name!r}: its parts {self.config['benchmark_filename']} have no column "
                f"{list_field!r}, so sequential models cannot read them; with --benchmark_filename=None RecBole reads "
                f"{self.dataset_name}.inter, if there is one, and builds the histories itself"
            )
        original(self)
        for field in _list_fields(self):
            self.inter_feat[field] = [cell[-self.max_item_list_len :] for cell in self.inter_feat[field]]
            self.field2seqlen[field] = self.max_item_list_len
        if _empty_histories(self.config) == "drop":
            _keep_rows(self, self.inter_feat[list_field].map(len).to_numpy() > 0)
        self.inter_feat[self.item_list_length_field] = self.inter_feat[list_field].map(len).clip(lower=1)

    return _benchmark_presets


def _list_fields(data: Any) -> list[str]:
    """Columns with one entry per item of the history; RecBole turns the numerical ones into pairs, and keeps those."""
    suffix, pairs = data.config["LIST_SUFFIX"], data.config["numerical_features"]
    lists = [field for field in data.seq_fields if field.endswith(suffix) and field not in pairs]
    return [field for field in lists if field in data.inter_feat]


def _empty_histories(config: Any) -> str:
    value = config["empty_histories"] or EMPTY_HISTORIES[0]
    if value not in EMPTY_HISTORIES:
        raise ValueError(f"empty_histories = {value!r}: must be one of {', '.join(EMPTY_HISTORIES)}")
    return value


def _keep_rows(data: Any, keep: np.ndarray[Any, Any]) -> None:
    """Leaves rows out of the parts of a data set, whose sizes are all that tells the parts apart."""
    ends = np.cumsum(data.file_size_list)
    data.file_size_list = [int(part.sum()) for part in np.split(keep, ends[:-1])]
    data.inter_feat = data.inter_feat[keep].reset_index(drop=True)


def _make_change_feat_format(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Pads given histories to ``MAX_ITEM_LIST_LENGTH``, the width that models such as Caser are built for."""

    def _change_feat_format(self: Any) -> None:
        original(self)
        if self.config["benchmark_filename"] is None:
            return
        for field in _list_fields(self):
            values = self.inter_feat[field]
            self.inter_feat[field] = torch.nn.functional.pad(values, (0, self.max_item_list_len - values.shape[1]))

    return _change_feat_format
