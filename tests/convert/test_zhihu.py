"""The arithmetic of docs/theory.md, "What limits DreamRec": what lists of never-trained items hit by chance on Zhihu."""

import os
from pathlib import Path

import pandas as pd
import pytest

from recbole_diffusion.convert.safe_pickle import read_dataframe

FOLDER = Path(os.environ.get("RECBOLE_DIFFUSION_DATA", ""), "dreamrec/zhihu")


@pytest.mark.skipif(
    not (FOLDER / "test_data.df").exists(), reason="RECBOLE_DIFFUSION_DATA names no folder with dreamrec/zhihu of the paper"
)
def test_hits_of_twenty_cold_items_drawn_at_random():
    """A sum of n of N numbers with mean m and variance s^2, none drawn twice, has mean n m and variance n s^2 (1 - n / N)."""
    train, valid, test = (read_dataframe(FOLDER / f"{part}_data.df")["next"] for part in ("train", "val", "test"))
    cold = pd.Index(range(4838)).difference(train)
    assert len(cold) == 87
    for part, share, mean, deviation in [(valid, 0.028, 0.0065, 0.0018), (test, 0.072, 0.0165, 0.0027)]:
        hits = part.value_counts().reindex(cold, fill_value=0) / len(part)
        assert hits.sum() == pytest.approx(share, abs=5e-4)
        assert 20 * hits.mean() == pytest.approx(mean, abs=5e-5)
        assert (20 * hits.var() * (1 - 20 / len(cold))) ** 0.5 == pytest.approx(deviation, abs=5e-5)
