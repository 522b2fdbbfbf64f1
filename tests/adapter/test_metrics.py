import numpy as np
import torch

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.metrics import ColdItemShare
from toy import COLUMNS, QUIET, write_inter


def test_cold_item_share_by_hand():
    lists = torch.tensor([[1, 9, 2], [9, 8, 7], [1, 2, 3]])  # 7, 8, 9 have no training interaction
    data = {"rec.items": lists, "data.count_items": {1: 5, 2: 1, 3: 2, 4: 1}}
    result = ColdItemShare({"topk": [1, 3], "metric_decimal_place": 6}).calculate_metric(data)
    assert result == {"colditemshare@1": round(1 / 3, 6), "colditemshare@3": round(4 / 9, 6)}


def test_recbole_evaluates_it(tmp_path):
    """Pop never recommends an item without interactions before it must."""
    rows = [(user, item, 0) for user in range(6) for item in range(3)]
    valid, test = [(user, 3, 1) for user in range(6)], [(user, 4 + (user == 5), 2) for user in range(6)]
    for part, more in (("train", rows), ("valid", valid), ("test", test)):
        write_inter(tmp_path, "cold", more, part)
    settings = QUIET | COLUMNS | {"data_path": str(tmp_path), "benchmark_filename": ["train", "valid", "test"]}
    settings |= {"metrics": ["Hit", "ColdItemShare"], "valid_metric": "Hit@1", "topk": [1], "checkpoint_dir": str(tmp_path)}
    result = run_recbole_diffusion("Pop", "cold", None, settings | {"epochs": 1})
    assert result["test"]["colditemshare@1"] == 1.0  # the three known items are masked
    shown = run_recbole_diffusion("Pop", "cold", None, settings | {"epochs": 1, "repeatable": True})
    assert np.isclose(shown["test"]["colditemshare@1"], 0.0)
