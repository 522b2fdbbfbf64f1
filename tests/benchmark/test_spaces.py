"""Every model's settings and candidates are accepted, and the settings of RecBole's models train."""

import itertools

import pytest
import torch

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.benchmark.spec import read_space, read_spec, spaces
from recbole_diffusion.registry import MODELS, find, stock_models
from recbole_diffusion.settings import SettingsError
from toy import QUIET, two_circles

ASKED = {"MultiVAE", "MultiDAE", "MacridVAE", "RecVAE", "CDAE", "SASRec", "GRU4Rec", "Caser", "BERT4Rec", "Pop",
         "ItemKNN", "EASE", "SLIMElastic", "LightGCN", "SequentialKNN"}  # fmt: skip


def test_all_are_there():
    assert set(spaces()) == ASKED | {*MODELS} - {"LTDiffRec", "StockLDiffRec"}
    assert all(find(name) or name in stock_models() for name in spaces())


@pytest.mark.parametrize("model", spaces())
def test_every_candidate_is_accepted(model, tmp_path):
    space, data = read_space(model), QUIET | two_circles(tmp_path, users=40)
    config = build_config(model, "circles", None, data | space["settings"])
    kind = getattr(config.model_class, "settings_class", None)
    for values in itertools.product(*space["tune"].values()):
        tried = dict(zip(space["tune"], values, strict=True))
        build_config(model, "circles", None, data | space["settings"] | tried)
        if kind is not None:
            kind.read(config.final_config_dict | tried)
            assert {*tried} <= {*kind.keys(), "learning_rate"}


@pytest.mark.parametrize("model", sorted(ASKED))
def test_the_settings_train(model, tmp_path):
    baseline, data = read_space(model), QUIET | two_circles(tmp_path, users=40)
    short = {"epochs": 1, "checkpoint_dir": str(tmp_path), "topk": [5], "valid_metric": "NDCG@5", "eval_batch_size": 512}
    record = run_recbole_diffusion(model, "circles", None, data | baseline["settings"] | short)
    assert 0 <= record["test"]["ndcg@5"] <= 1
    if record["curve"][0]["train_loss"] is not None:
        assert torch.tensor(record["curve"][0]["train_loss"]).isfinite()


def test_a_row_takes_a_space_and_changes_it(tmp_path):
    file = tmp_path / "mine.yaml"
    rows = "rows: [{row: a, model: EASE, dataset: d, space: True}, {row: b, model: EASE, dataset: d, space: True, "
    file.write_text("title: T\nmetrics: {d: [ndcg@10]}\n" + rows + "settings: {reg_weight: 7.0}, tune: {}}]")
    a, b = read_spec(str(file)).rows
    baseline = read_space("EASE")
    assert (a.settings, a.tune) == (baseline["settings"], baseline["tune"])
    assert (b.settings, b.tune) == (baseline["settings"] | {"reg_weight": 7.0}, {})
    with pytest.raises(SettingsError, match="no search space for 'BPR'"):
        read_space("BPR")
