"""Checkpoints: what is saved comes back, for every kind of RecBole model."""

import os
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.trainer import trainer as trainers

from model.contract import Prepared
from recbole_diffusion.adapter import checkpoint
from recbole_diffusion.adapter.checkpoint import config_from, load_checkpoint, save_checkpoint, settings_of
from trained import JOBS, NO_NEGATIVES, SMALL, circles, equal, scores_of, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return circles(tmp_path_factory.mktemp("data"))


# ------------------------------------------------------------------------------------------------ settings

CONFIGS = {
    "BPR": {"x": 1},
    "SASRec": NO_NEGATIVES | {"topk": 5, "metrics": "NDCG", "valid_metric": "NDCG@5"},
    "GRU4Rec": {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 3}},
    "MultiVAE": {"train_neg_sample_args": "None", "eval_args": {"mode": {"valid": "uni50"}, "order": "TO"}},
    "NeuMF": {"gpu_id": "0,1", "odd": "1", "odder": "'True'", "code": "__import__('os')", "list": ["1", "None"]},
    "DeepFM": {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}},
    "EASE": {"data_path": "some/where/", "learning_rate": np.float64(0.25), "unit": (1, 2)},
}


@pytest.mark.parametrize("dataset", ["ml-100k", "nowhere"])
@pytest.mark.parametrize("model", CONFIGS)
def test_settings_rebuild_an_equal_config(model, dataset, tmp_path):
    config = Config(model=model, dataset=dataset, config_dict=dict(CONFIGS[model]))
    settings = settings_of(config)
    torch.save(settings, tmp_path / "x.pt")
    again = Config(model=model, dataset=dataset, config_dict=torch.load(tmp_path / "x.pt", weights_only=True))
    assert again.final_config_dict == config.final_config_dict
    assert settings_of(again) == settings
    assert not {"model", "dataset", "device", "MODEL_TYPE", "single_spec", "local_rank"} & set(settings)


def test_settings_hold_what_was_set_later_and_drop_what_is_no_setting(monkeypatch):
    config = Config(model="BPR", dataset="nowhere", config_dict={"learning_rate": 0.5})
    later = {"learning_rate": 0.25, "new": [1, "2"], "word": "7", "nothing": None, "data_path": "moved/nowhere"}
    later |= {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 2}, "where": torch.device("cpu")}
    for key, value in (later | {"tensor": torch.ones(1), "kind": config["MODEL_TYPE"]}).items():
        config[key] = value
    monkeypatch.setattr(sys, "argv", ["script", "--learning_rate=9", "--epochs=9"])
    again = config_from({"model": "BPR", "dataset": "nowhere", "settings": settings_of(config)}, {"epochs": 3})
    assert sys.argv == ["script", "--learning_rate=9", "--epochs=9"]
    assert again["epochs"] == 3 and again["where"] == "cpu" and again["tensor"] is None and again["kind"] is None
    assert again["train_neg_sample_args"].items() >= later.pop("train_neg_sample_args").items()
    del later["where"]
    assert {key: again[key] for key in later} == later


# ------------------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("model", JOBS)
def test_save_and_load_change_nothing(model, data):
    job = train(model, data)
    file, before = job.trainer.saved_model_file, scores_of(job.trainer.model, job.test)
    raw = torch.load(file, weights_only=True)
    assert raw["format"] == checkpoint.FORMAT and raw["model"] == model and raw["dataset"] == "circles"
    config, loaded, dataset, train_data, valid_data, test_data = load_data_and_model(file)
    assert config["model"] == model and dataset.item_num == 25 and len(valid_data) == len(job.valid)
    assert equal(scores_of(loaded, test_data), before)
    assert len(train_data._dataset) == len(job.train._dataset)


def test_a_loaded_model_does_not_depend_on_the_machine_s_command_line(data, monkeypatch):
    file = train("BPR", data).trainer.saved_model_file
    monkeypatch.setattr(sys, "argv", ["script", "--embedding_size=99"])
    assert load_data_and_model(file)[1].user_embedding.embedding_dim == SMALL["embedding_size"]


def test_settings_that_no_longer_exist_are_named_and_ignored(tmp_path, caplog):
    job = Prepared("DiffRec", {"dims_dnn": [8], "steps": 3, "epochs": 1}, tmp_path).fit()
    file = job.trainer.saved_model_file
    raw = torch.load(file, weights_only=True)
    raw["settings"]["shape_of_noise"] = "round"
    torch.save(raw, file)
    with caplog.at_level("WARNING"):
        config, loaded, *_ = load_data_and_model(file)
    assert "settings that DiffRec no longer has: shape_of_noise" in caplog.text
    assert config["strict_config"] is True
    for name, value in job.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_evaluate_loads_the_best_model(data, caplog):
    job = train("BPR", data)
    expected, before = job.trainer.evaluate(job.test), scores_of(job.trainer.model, job.test)
    torch.nn.init.normal_(job.trainer.model.user_embedding.weight)
    assert not equal(scores_of(job.trainer.model, job.test), before)
    with caplog.at_level("INFO"):
        assert job.trainer.evaluate(job.test) == expected
    assert f"Loading model structure and parameters from {job.trainer.saved_model_file}" in caplog.text
    assert equal(scores_of(job.trainer.model, job.test), before)
    assert job.trainer.evaluate(job.test, load_best_model=False) == expected
    assert job.trainer.evaluate(None) is None


@pytest.mark.parametrize("model", ["BPR", "RecVAE"])
def test_resuming_goes_on_as_if_nothing_had_happened(model, data):
    """RecVAE's trainer has two optimisers; RecBole saves one and cannot resume at all."""
    first, other = train(model, data), train(model, data, epochs=1, seed=3, checkpoint_dir="other")
    resumed = other.trainer
    resumed.resume_checkpoint(first.trainer.saved_model_file)
    saved = load_checkpoint(first.trainer.saved_model_file)
    assert resumed.start_epoch == saved["epoch"] + 1 and resumed.cur_step == saved["cur_step"]
    assert resumed.best_valid_score == first.trainer.best_valid_score
    assert resumed.best_valid_result == first.trainer.best_valid_result
    for name in ("optimizer_encoder", "optimizer_decoder") if model == "RecVAE" else ("optimizer",):
        states = [getattr(job.trainer, name).state_dict()["state"].values() for job in (first, other)]
        for one, two in zip(*states, strict=True):
            assert torch.equal(one["exp_avg"], two["exp_avg"]) and one["step"] == two["step"]
    # Nothing is left to do, so RecBole saves again, with epoch -1.
    resumed.fit(other.train, other.valid, show_progress=False)
    again = load_checkpoint(first.trainer.saved_model_file)
    assert again["epoch"] == saved["epoch"] and again["best_valid_result"] == saved["best_valid_result"]


def test_the_best_result_is_saved_with_the_model_that_has_it(data):
    """RecBole saves before it notes the result."""
    job = train("BPR", data, epochs=1)
    saved = load_checkpoint(job.trainer.saved_model_file)
    assert saved["best_valid_result"] == dict(job.trainer.best_valid_result)
    assert saved["best_valid_score"] == saved["best_valid_result"][job.trainer.valid_metric]


def test_extra_entries(data, tmp_path):
    trainer = train("BPR", data).trainer
    save_checkpoint(trainer, 1, tmp_path / "new" / "x.pth", extra={"rng": np.random.RandomState(1).get_state()})
    state = load_checkpoint(tmp_path / "new" / "x.pth")["rng"]
    assert np.random.RandomState(1).get_state()[1].tolist() == state[1].tolist() and state[0] == "MT19937"
    with pytest.raises(ValueError, match=r"extra of checkpoint x.pth holds \['model'\]"):
        save_checkpoint(trainer, 1, "x.pth", extra={"model": 1})


def test_a_failed_save_leaves_the_old_file(data, monkeypatch):
    trainer = train("BPR", data).trainer
    before = load_checkpoint(trainer.saved_model_file)["epoch"]
    with pytest.raises(ValueError, match=r"extra\['x'\] is a builtins.object"):
        save_checkpoint(trainer, 99, trainer.saved_model_file, extra={"x": object()})

    def disk_full(state, file):
        with open(file, "wb") as opened:
            opened.write(b"PK")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(trainer, 99, trainer.saved_model_file)
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == before
    assert os.listdir("saved") == [os.path.basename(trainer.saved_model_file)]


def test_only_the_first_process_saves(data):
    trainer = train("BPR", data).trainer
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        trainer.config["single_spec"], trainer.config["local_rank"] = False, 1
        trainer._save_checkpoint(0, saved_model_file="second.pth")
        assert not os.path.exists("second.pth")
        trainer.config["local_rank"] = 0
        trainer._save_checkpoint(0, saved_model_file="first.pth")
    finally:
        torch.distributed.destroy_process_group()
    assert load_checkpoint("first.pth")["settings"].keys() & {"single_spec", "local_rank"} == set()


def test_models_that_start_from_another_s_weights(data):
    """RecBole's models read those with a plain torch.load, which our files pass."""
    pretrained = train("BPR", data).trainer
    more = {"train_method": "after_pretrain", "pre_model_path": pretrained.saved_model_file, "epochs": 0}
    more |= {"cnn_channels": [1, 4], "cnn_kernels": [2], "cnn_strides": [2]}
    started = train("ConvNCF", data, **more).trainer.model
    assert torch.equal(started.item_embedding.weight, pretrained.model.item_embedding.weight)


def test_a_pretraining_stage_saves_its_own_file(data):
    job = train("BPR", data)
    job.trainer.__class__ = type("Stage", (trainers.PretrainTrainer,), {})
    job.trainer.save_pretrained_model(3, "stage-4.pth")
    assert load_checkpoint("stage-4.pth")["epoch"] == 3 and job.trainer.saved_model_file == "stage-4.pth"


def test_a_tree_model_names_the_file_with_its_trees(data):
    trainer = train("BPR", data).trainer
    trainer.__class__, trainer.temp_best_file = trainers.DecisionTreeTrainer, "saved/trees.bin"
    trainer._save_checkpoint(2)
    saved = load_checkpoint(trainer.saved_model_file)
    assert saved["state_dict"] == "saved/trees.bin" and saved["epoch"] == 2


def test_patching_twice_changes_nothing():
    owners = (
        trainers.Trainer,
        trainers.PretrainTrainer,
        trainers.DecisionTreeTrainer,
        sys.modules[run_recbole.__module__],
    )
    before = [dict(vars(owner)) for owner in owners]
    checkpoint.install()
    assert [dict(vars(owner)) for owner in owners] == before


def test_state_dictionaries_in_order(data):
    """A checkpoint is useful without this package: torch.load, then load_state_dict."""
    trainer = train("BPR", data).trainer
    state = torch.load(trainer.saved_model_file, weights_only=True)["state_dict"]
    assert list(state) == list(trainer.model.state_dict())
    trainer.model.load_state_dict(OrderedDict(state))
