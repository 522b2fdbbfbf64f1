"""Corrections: where RecBole 1.2.1 runs as written and we change what comes out.

They are on in our commands and for our models. A stock script that runs one of RecBole's models gets RecBole's own results,
unless it asks with the setting ``corrections: True``. Two more places change results, and are on everywhere for reasons that
they give: :mod:`recbole_diffusion.adapter.time_order` and :mod:`recbole_diffusion.adapter.given_histories`. The data set's own
YAML, which belongs to the setting too, is read in :mod:`recbole_diffusion.adapter.config`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.model.general_recommender import Pop

from recbole_diffusion.adapter.patch import replace


def install() -> None:
    """Hangs the corrections into RecBole; each looks at the setting ``corrections``. A second call changes nothing."""
    replace(Pop, "__init__", _make_init)
    replace(Pop, "calculate_loss", _make_loss)


def _make_init(original: Callable[..., None]) -> Callable[..., None]:
    """Lets Pop count every training interaction once, and nothing else.

    Symptom: ``item_cnt[item] = item_cnt[item] + 1`` (model/general_recommender/pop.py:43) counts an item once per batch,
    however often it is in it, and counts sampled negatives, of which RecBole gives Pop one per interaction by default. On
    DiffRec's ML-1M, Recall@20 is .084 in place of .0993.
    """

    def __init__(self: Any, config: Any, dataset: Any) -> None:
        original(self, config, dataset)
        self.counted = bool(config["corrections"])
        if self.counted:
            items = dataset.inter_feat[dataset.iid_field]
            self.item_cnt = torch.bincount(items, minlength=self.n_items).unsqueeze(1).to(self.device)
            self.max_cnt = self.item_cnt.max(dim=0).values

    return __init__


def _make_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    def calculate_loss(self: Any, interaction: Any) -> Any:
        if not self.counted:
            return original(self, interaction)
        return torch.nn.Parameter(torch.zeros(1)).to(self.device)  # there is nothing to learn

    return calculate_loss
