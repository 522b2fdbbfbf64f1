"""Importing the plugin changes no results of RecBole's own models, classes of the user's own, or the process."""

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.model.general_recommender import BPR, Pop
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed

from recbole_diffusion import registry, run_recbole_diffusion
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.benchmark.record import settings_hash
from toy import QUIET, checkerboard, two_circles
from trained import circles, equal, scores_of, train

OWN = {"epochs": 1, "embedding_size": 8, "no_such_key": 1}


def theirs(name):
    """A user's own model, which bears the name of one of ours."""
    return type(name, (BPR,), {"__module__": "theirs"})


OURS = [name for name in registry.MODELS if name not in ("DiffRec", "LDiffRec")]  # names that RecBole knows itself


@pytest.mark.parametrize("name", OURS)
def test_a_user_s_own_class_of_the_same_name(name, tmp_path):
    own = theirs(name)
    data = QUIET | two_circles(tmp_path, users=40) | OWN
    config = Config(model=own, dataset="circles", config_dict=data)
    plain = Config(model=theirs("SomethingElse"), dataset="circles", config_dict=data)
    assert config.final_config_dict | {"model": "SomethingElse"} == plain.final_config_dict
    init_seed(1, True)
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    assert (type(train_data), type(valid_data)) == (TrainDataLoader, FullSortEvalDataLoader)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, own(config, train_data._dataset))
    assert type(trainer) is Trainer
    trainer.fit(train_data, valid_data, show_progress=False)
    assert trainer.evaluate(test_data)["recall@10"] >= 0
    with pytest.raises(ValueError, match=f"checkpoint of theirs.{name}, a class of your own") as caught:
        load_data_and_model(trainer.saved_model_file)
    assert "\n" not in str(caught.value)
    _, loaded, *_, test_data = load_data_and_model(trainer.saved_model_file, overrides={"model": own})
    assert type(loaded) is own
    assert equal(scores_of(loaded, test_data), scores_of(trainer.model, test_data))


@pytest.mark.parametrize("name", ["CFGAN", "DreamRec"])
def test_our_run_takes_a_user_s_own_class(name, tmp_path):
    settings = QUIET | two_circles(tmp_path, users=40) | {"epochs": 1, "embedding_size": 8}
    record = run_recbole_diffusion(theirs(name), "circles", None, settings)
    assert record["protocol"] == "ratio-80-10-10" and record["parameters"] == (41 + 25) * 8
    assert "steps" not in record["settings"] and "d_learning_rate" not in record["settings"]


def test_recbole_finds_our_trainers_by_name():
    for name in ("CFGAN", "AAE", "IRGAN", "LDiffRec", "LTDiffRec"):
        trainer = get_trainer(get_model(name).type, name)
        assert trainer.__name__ == f"{name}Trainer" and issubclass(trainer, registry.MODELS[name].load_trainer())


def counts_of_recbole(data, batch_size):
    """What stock Pop has after one epoch, by hand: one for each batch that an item is in."""
    batches = np.array_split(data, range(batch_size, len(data), batch_size))
    return sum(np.bincount(np.unique(items), minlength=25) for items in batches)


@pytest.mark.parametrize("corrections", [None, False, True])
def test_pop_of_a_stock_script_is_recbole_s_unless_asked(tmp_path, corrections):
    more = {} if corrections is None else {"corrections": corrections}
    trained = train("Pop", circles(tmp_path), train_batch_size=7, train_neg_sample_args=None, epochs=1, shuffle=False, **more)
    items = trained.train.dataset.inter_feat["item_id"].numpy()
    every, once_a_batch = np.bincount(items, minlength=25), counts_of_recbole(items, 7)
    assert every.tolist() != once_a_batch.tolist()
    found = trained.trainer.model.item_cnt[:, 0].tolist()
    assert found == (every if corrections else once_a_batch).tolist()


@pytest.mark.parametrize("negatives", [{}, {"train_neg_sample_args": None}])
def test_pop_counts_every_interaction_once(tmp_path, negatives):
    trained = train("Pop", circles(tmp_path), train_batch_size=7, corrections=True, **negatives)
    expected = np.bincount(trained.train.dataset.inter_feat["item_id"].numpy(), minlength=25)
    assert trained.trainer.model.item_cnt[:, 0].tolist() == expected.tolist()
    scores = scores_of(trained.trainer.model, trained.test)[0].view(-1, 25)
    np.testing.assert_allclose(scores[0], expected / expected.max())


def test_our_run_counts_with_corrections(tmp_path):
    data = circles(tmp_path)
    config = build_config("Pop", "circles", None, QUIET | data)
    assert config["corrections"] is True
    train_data, *_ = data_preparation(config, create_dataset(config))
    assert Pop(config, train_data._dataset).counted
    # Records from before the setting have the same name.
    without = build_config("Pop", "circles", None, QUIET | data)
    del without.final_config_dict["corrections"]
    off = build_config("Pop", "circles", None, QUIET | data | {"corrections": False})
    assert settings_hash(config) == settings_hash(without) != settings_hash(off)


def test_the_data_s_own_yaml_is_for_our_models_and_commands(tmp_path):
    checkerboard(tmp_path)
    (tmp_path / "checkerboard" / "checkerboard.yaml").write_text("MAX_ITEM_LIST_LENGTH: 3\ntopk: [7, 10]\n")
    data = {"data_path": str(tmp_path)}
    for model in ("BPR", "SASRec"):
        stock = Config(model=model, dataset="checkerboard", config_dict=data)
        assert (stock["MAX_ITEM_LIST_LENGTH"], stock["topk"]) == (50, [10])
    asked = Config(model="BPR", dataset="checkerboard", config_dict=data | {"corrections": True})
    ours = Config(model="DiffRec", dataset="checkerboard", config_dict=data)
    for config in (asked, ours, build_config("BPR", "checkerboard", None, data)):
        assert (config["MAX_ITEM_LIST_LENGTH"], config["topk"]) == (3, [7, 10])


@pytest.mark.parametrize("before", ["highest", "high"])
def test_the_precision_of_products_is_restored(tmp_path, monkeypatch, before):
    inside = []
    for name in ("_train_epoch", "_full_sort_batch_eval"):
        original = getattr(Trainer, name)

        def spy(self, *args, original=original, **kwargs):
            inside.append((original.__name__, torch.get_float32_matmul_precision()))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Trainer, name, spy)
    settings = QUIET | checkerboard(tmp_path) | {"epochs": 1}
    ours = settings | {"matmul_precision": "medium", "dims_dnn": [8]}
    torch.set_float32_matmul_precision(before)
    try:
        run_recbole(model="DiffRec", dataset="checkerboard", config_dict=ours)
        assert set(inside) == {("_train_epoch", "medium"), ("_full_sort_batch_eval", "highest")}
        assert len(inside) >= 3  # training, validation, test
        assert torch.get_float32_matmul_precision() == before
        inside.clear()
        run_recbole(model="BPR", dataset="checkerboard", config_dict=settings)
        assert {precision for _, precision in inside} == {before} == {torch.get_float32_matmul_precision()}
    finally:
        torch.set_float32_matmul_precision("highest")
