"""Makes RecBole's split at moments for all users (order ``TO``, split ``RS``, ``group_by: none``) cut between moments.

RecBole 1.2.1 cuts after a number of rows, wherever that falls: where many interactions share a time, as in data with whole
days, some of a moment are training and others validation or test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from recbole.data.dataset import Dataset

from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.adapter.time_order import exact_time


def install() -> None:
    """Hangs the cut into RecBole's data sets; a second call changes nothing."""
    replace(Dataset, "split_by_ratio", _between_moments)


def _between_moments(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Gives a moment that a cut falls into to the later part, whole.

    Raises:
        ValueError: so many interactions share one time that a part would be empty.
    """

    @functools.wraps(original)
    def split_by_ratio(self: Any, ratios: list[float], group_by: str | None = None) -> list[Any]:
        if group_by is not None or self.config["eval_args"]["order"] != "TO":
            return original(self, ratios, group_by)
        # Taken before RecBole splits, since it may drop the column then (unused_col).
        exact = exact_time(self.inter_feat)
        times = (self.inter_feat[self.time_field] if exact is None else exact.time).numpy()
        parts = original(self, ratios, group_by)
        cuts = np.cumsum([len(part) for part in parts])[:-1]
        moved = np.where(cuts < len(times), np.searchsorted(times, times[np.minimum(cuts, len(times) - 1)]), cuts)
        ends = list(zip([0, *moved], [*moved, len(times)], strict=True))
        if any(begin == end and len(part) > 0 for part, (begin, end) in zip(parts, ends, strict=True)):
            raise ValueError(
                f"split {ratios} over all users in time order: so many interactions share one {self.time_field!r} that a part "
                "would be empty; allowed: other ratios, or group_by: user"
            )
        return [self.copy(self.inter_feat[begin:end]) for begin, end in ends]

    return split_by_ratio
