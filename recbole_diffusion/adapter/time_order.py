"""Makes RecBole order interactions by their exact time; ties keep the order of the file.

RecBole 1.2.1 casts the time column to float32, whose steps are 64 to 128 seconds at today's Unix times, before it sorts
(RecBole issue #2204). A user's last item, the test target of leave-one-out, can then be older than an item of its history.
Here the exact times and the rows' places in the file go with an ``Interaction`` as an attribute, out of sight of models and of
data sets that go through its columns, and every later sort by the time field uses them. This holds for every data set and
every model, RecBole's own in a stock script included: a test on the past is wrong for everybody.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data import interaction as interaction_module
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType

from recbole_diffusion.adapter.patch import replace

_ATTRIBUTE = "exact_time"


@dataclasses.dataclass
class ExactTime:
    """The exact times of the rows of an ``Interaction``.

    Attributes:
        field: name of the time column.
        time: float64, ``[n]``.
        row: the rows' places in the file, ``[n]``.
    """

    field: str
    time: torch.Tensor
    row: torch.Tensor

    def __getitem__(self, index: Any) -> ExactTime:
        index = index.cpu() if isinstance(index, torch.Tensor) else index
        return ExactTime(self.field, self.time[index], self.row[index])

    def fits(self, column: torch.Tensor) -> bool:
        """Whether a column is what these times become as float32; a script may have put other values into it."""
        if len(column) != len(self.time):
            return False
        order = torch.argsort(self.time)
        return bool((_first(column)[order].diff() >= 0).all())


def _first(column: torch.Tensor) -> torch.Tensor:
    return column if column.dim() == 1 else column[..., 0]  # a numerical feature is a pair, which RecBole sorts by its first


def exact_time(interaction: Interaction) -> ExactTime | None:
    """The exact times of an ``Interaction``; None where it has no time column, or its column was changed."""
    exact = vars(interaction).get(_ATTRIBUTE)
    return exact if exact is not None and exact.field in interaction and exact.fits(interaction[exact.field]) else None


def install() -> None:
    """Hangs the exact order into RecBole's data sets and interactions; a second call changes nothing."""
    replace(Dataset, "_remove_duplication", _make_remove_duplication)
    replace(Dataset, "_dataframe_to_interaction", _make_dataframe_to_interaction)
    replace(Dataset, "time_based_split", _make_time_based_split)
    replace(Interaction, "__getitem__", _make_getitem)
    replace(Interaction, "_reindex", _make_reindex)
    replace(Interaction, "sort", _make_sort)
    replace(interaction_module, "cat_interactions", _make_cat_interactions, everywhere=True)


def _make_remove_duplication(original: Callable[..., None]) -> Callable[..., None]:
    """Drops repeated interactions in exact time order; RecBole's own sort is not stable, so it may keep any of equal times."""

    def _remove_duplication(self: Any) -> None:
        if self.config["rm_dup_inter"] is not None and self.time_field in self.inter_feat:
            ordered = self.inter_feat.sort_values(self.time_field, kind="stable")
            self.inter_feat = ordered.drop_duplicates([self.uid_field, self.iid_field], keep=self.config["rm_dup_inter"])
        else:
            original(self)

    return _remove_duplication


def _make_dataframe_to_interaction(original: Callable[..., Interaction]) -> Callable[..., Interaction]:
    """Keeps the times, which are float64 in the frame, beside the float32 column that they become."""

    def _dataframe_to_interaction(self: Any, data: pd.DataFrame) -> Interaction:
        converted = original(self, data)
        if self.time_field in data and self.field2type[self.time_field] == FeatureType.FLOAT and len(data):
            values = np.array(data[self.time_field].tolist(), dtype=np.float64)
            if values.ndim == 2:  # a numerical feature is [value, 1], or [1, bucket] where it is discretised
                values = values[:, int(self.time_field in (self.config["discretization"] or {}))]
            exact = ExactTime(self.time_field, torch.from_numpy(values), torch.arange(len(values)))
            setattr(converted, _ATTRIBUTE, exact)
        return converted

    return _dataframe_to_interaction


def _make_getitem(original: Callable[..., Any]) -> Callable[..., Any]:
    def __getitem__(self: Interaction, index: Any) -> Any:
        found = original(self, index)
        if isinstance(found, Interaction) and _ATTRIBUTE in vars(self):
            setattr(found, _ATTRIBUTE, vars(self)[_ATTRIBUTE][index])
        return found

    return __getitem__


def _make_reindex(original: Callable[..., None]) -> Callable[..., None]:
    def _reindex(self: Interaction, index: Any) -> None:
        original(self, index)
        if _ATTRIBUTE in vars(self):
            setattr(self, _ATTRIBUTE, vars(self)[_ATTRIBUTE][index])

    return _reindex


def _make_sort(original: Callable[..., None]) -> Callable[..., None]:
    """Sorts by exact time, then by place in the file, where RecBole asks for the time column."""

    def sort(self: Interaction, by: str | list[str], ascending: bool | list[bool] = True) -> None:
        fields = [by] if isinstance(by, str) else list(by)
        exact = exact_time(self)
        if exact is None or exact.field not in fields:
            return original(self, by, ascending)
        given = [ascending] if isinstance(ascending, bool) else list(ascending)
        upwards = given * (len(fields) // len(given))
        place = fields.index(exact.field)
        time, row = f"{exact.field}:time", f"{exact.field}:row"  # no column's name has a colon
        fields[place : place + 1], upwards[place : place + 1] = [time, row], [upwards[place]] * 2
        self[time], self[row] = exact.time, exact.row
        try:
            original(self, fields, upwards)
        finally:
            del self[time], self[row]

    return sort


def _make_time_based_split(original: Callable[..., Any]) -> Callable[..., Any]:
    """Cuts at an exact time, and cuts rows that are in time order: RecBole takes them for ordered under RO too."""

    def time_based_split(self: Any, ratios: list[float], group_by: str) -> Any:
        exact = exact_time(self.inter_feat)
        if exact is None:
            return original(self, ratios, group_by)
        ordered = copy.copy(self)
        ordered.inter_feat = self.inter_feat[:]
        ordered.inter_feat.sort(self.time_field)
        column = f"{self.time_field}:column"  # no column's name has a colon
        ordered.inter_feat[column] = ordered.inter_feat[self.time_field]
        ordered.inter_feat[self.time_field] = vars(ordered.inter_feat)[_ATTRIBUTE].time
        parts = original(ordered, ratios, group_by)
        for part in parts:
            if self.time_field in part.inter_feat:  # unused_col may have dropped it
                part.inter_feat[self.time_field] = part.inter_feat[column]
            del part.inter_feat[column]
        return parts

    return time_based_split


def _make_cat_interactions(original: Callable[..., Interaction]) -> Callable[..., Interaction]:
    def cat_interactions(interactions: list[Interaction]) -> Interaction:
        joined = original(interactions)
        parts = [exact_time(interaction) for interaction in interactions]
        if all(part is not None for part in parts):
            time, row = (torch.cat([getattr(part, name) for part in parts]) for name in ("time", "row"))
            setattr(joined, _ATTRIBUTE, ExactTime(parts[0].field, time, row))
        return joined

    return cat_interactions
