"""RecBole's rows for every prefix of a sequence, cut at once, are those of its own loop."""

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_diffusion.adapter.config import build_config
from toy import QUIET


@pytest.fixture
def every_kind(tmp_path):
    """Users with 1 to 12 items at the same or other times, and a column of every kind."""
    rng = np.random.default_rng(0)
    rows = [
        (
            f"u{user}",
            f"i{rng.integers(9)}",
            rng.integers(30),
            rng.integers(1, 6),
            " ".join(rng.choice(["a", "b", "c"], rng.integers(1, 4))),
            "1.5 2.5",
        )
        for user, length in enumerate(rng.integers(1, 13, 25))
        for _ in range(length)
    ]
    columns = ["user_id:token", "item_id:token", "timestamp:float", "rating:float", "tags:token_seq", "vector:float_seq"]
    (tmp_path / "kinds").mkdir()
    lines = ["\t".join(columns), *("\t".join(map(str, rows[i])) for i in rng.permutation(len(rows)))]
    (tmp_path / "kinds" / "kinds.inter").write_text("\n".join(lines) + "\n")
    return {"data_path": str(tmp_path), "load_col": {"inter": [column.split(":")[0] for column in columns]}}


@pytest.mark.parametrize(
    "more", [{}, {"numerical_features": ["rating", "vector"]}, {"unused_col": {"inter": ["rating", "tags"]}}]
)
@pytest.mark.parametrize("length", [4, 50])
def test_the_parts_are_those_of_recbole_s_loop(every_kind, monkeypatch, more, length):
    settings = QUIET | every_kind | more | {"MAX_ITEM_LIST_LENGTH": length, "topk": [5], "valid_metric": "NDCG@5"}
    config = build_config("SASRec", "kinds", None, settings)
    ours = SequentialDataset(config).build()
    monkeypatch.setattr(SequentialDataset, "data_augmentation", SequentialDataset.data_augmentation.__wrapped__)
    stock = SequentialDataset(config).build()
    for our, their in zip(ours, stock, strict=True):
        assert len(our) == len(their) > 0
        assert our.inter_feat.columns == their.inter_feat.columns
        for field in their.inter_feat.columns:
            found, expected = our.inter_feat[field], their.inter_feat[field]
            assert found.dtype == expected.dtype and torch.equal(found, expected), field
        assert our.inter_feat.exact_time.row.equal(their.inter_feat.exact_time.row)
