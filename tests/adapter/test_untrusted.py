"""Checkpoints that somebody else made: reading one never runs code unasked."""

import os
import pickle
import tarfile
import zipfile

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.trainer import trainer as trainers

from recbole_diffusion.adapter.checkpoint import config_from, load_checkpoint, load_data_and_model
from recbole_diffusion.adapter.pickles import trust_pickles
from recbole_diffusion.settings import SettingsError
from trained import circles, equal, scores_of, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return circles(tmp_path_factory.mktemp("data"))


class Evil:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def stock(data):
    """A checkpoint that RecBole itself wrote, and the model in it."""
    trainer = train("BPR", data).trainer
    trainers.Trainer._save_checkpoint.__wrapped__(trainer, 0, saved_model_file="stock.pth")
    return trainer


def test_recbole_s_own_checkpoints_need_a_word(stock):
    for read in (load_checkpoint, load_data_and_model, stock.resume_checkpoint):
        with pytest.raises(ValueError, match=r"'stock.pth' is a pickle.* trust_pickle=True") as caught:
            read("stock.pth")
        assert "\n" not in str(caught.value)
    assert load_checkpoint("stock.pth", trust_pickle=True)["config"]["model"] == "BPR"
    config, model, _, _, _, test_data = load_data_and_model("stock.pth", trust_pickle=True)
    assert config.final_config_dict == stock.config.final_config_dict
    assert equal(scores_of(model, test_data), scores_of(stock.model, test_data))


def test_recbole_s_own_diffrec_is_loaded_as_ours_under_another_name(data):
    settings = {
        "train_neg_sample_args": None,
        "dims_dnn": [8],
        "steps": 3,
        "eval_batch_size": 4096,
        "strict_config": False,
    }
    job = train("StockDiffRec", data, **settings)
    job.trainer.config["model"] = "DiffRec"  # the name that it has without this package
    trainers.Trainer._save_checkpoint.__wrapped__(job.trainer, 0, saved_model_file="stock.pth")
    config, model, *_, test_data = load_data_and_model("stock.pth", trust_pickle=True)
    assert config["model"] == "StockDiffRec" and type(model) is type(job.trainer.model)
    assert equal(scores_of(model, test_data), scores_of(job.trainer.model, job.test))


def evil_files(marker):
    """Every kind of file that torch.load would take, each with a pickle that leaves a marker."""
    evil = {"config": Evil(marker), "state_dict": {}}
    torch.save(evil, "archive.pth")
    torch.save(evil, "old.pth", _use_new_zipfile_serialization=False)
    torch.save(evil, "protocol4.pth", pickle_protocol=4)
    with open("bare.pth", "wb") as file:
        pickle.dump(evil, file)
    with open("text.pth", "wb") as file:
        pickle.dump(evil, file, protocol=0)
    with open("pickle", "wb") as file:
        pickle.dump(evil, file, protocol=2)
    with tarfile.open("tar.pth", "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.add("pickle", name)
    os.remove("pickle")
    return sorted(name for name in os.listdir() if name.endswith(".pth"))


def test_no_kind_of_pickle_is_run(tmp_path):
    marker = tmp_path / "ran"
    files = evil_files(marker)
    assert len(files) == 6
    for file in files:
        with pytest.raises(ValueError, match=rf"'{file}'"):
            load_checkpoint(file)
        with pytest.raises(ValueError, match=rf"'{file}'"):
            load_data_and_model(file)
    assert not marker.exists()
    load_checkpoint("archive.pth", trust_pickle=True)
    assert marker.exists(), "the files do what they are made for"


def test_torchscript_is_not_run():
    torch.jit.script(torch.nn.Linear(1, 1)).save("script.pth")
    with pytest.raises(ValueError, match="is not a checkpoint of format"):
        load_checkpoint("script.pth")


@pytest.mark.parametrize("name", ["circles-Dataset.pth", "circles-for-BPR-dataloader.pth"])
def test_a_pickle_beside_a_checkpoint_is_not_run(name, data, tmp_path):
    """RecBole reads a cached data set from the checkpoint's folder, wherever the settings say that is."""
    job = train("BPR", data, checkpoint_dir="theirs")
    with open(f"theirs/{name}", "wb") as file:
        pickle.dump(Evil(tmp_path / "ran"), file)
    before = scores_of(job.trainer.model, job.test)
    config, model, *_, test_data = load_data_and_model(job.trainer.saved_model_file)
    assert not (tmp_path / "ran").exists() and equal(scores_of(model, test_data), before)
    with trust_pickles(), pytest.raises((AttributeError, TypeError)):  # it goes on with what the pickle returned
        data_preparation(config, create_dataset(config))
    assert (tmp_path / "ran").exists(), "RecBole reads it"


def test_a_pretrained_model_that_the_settings_name_is_not_run(data, tmp_path, monkeypatch):
    """On torch < 2.6 a plain torch.load runs pickles; here it is made to."""
    torch.save({"state_dict": Evil(tmp_path / "ran")}, "evil.pth")
    good = train("BPR", data).trainer
    more = {"train_method": "no_pretrain", "epochs": 1, "cnn_channels": [1, 4], "cnn_kernels": [2], "cnn_strides": [2]}
    trainer = train("ConvNCF", data, **more).trainer
    trainer.config["train_method"], trainer.config["pre_model_path"] = "after_pretrain", "evil.pth"
    trainer._save_checkpoint(0)
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: load(*args, **{"weights_only": False} | kwargs))
    with pytest.raises(SettingsError, match="'evil.pth': a pickle"):
        load_data_and_model(trainer.saved_model_file)
    assert not (tmp_path / "ran").exists() and torch.load is not load
    load_checkpoint(good.saved_model_file)


def test_damaged_files(data, tmp_path):
    whole = train("BPR", data).trainer.saved_model_file
    content = open(whole, "rb").read()
    damaged = {
        "empty.pth": b"",
        "text.pth": b"not a checkpoint",
        "short.pth": content[: len(content) // 2],
        "zip.pth": content[:4],
    }
    for name, part in damaged.items():
        (tmp_path / name).write_bytes(part)
    with zipfile.ZipFile("other.pth", "w") as archive:
        archive.writestr("a", "b")
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile("hollow.pth", "w") as hollow:
        for entry in archive.namelist():
            if "/data/" not in entry:
                hollow.writestr(entry, archive.read(entry))
    for name in (*damaged, "other.pth", "hollow.pth"):
        for trust in (False, True):
            with pytest.raises(ValueError, match=rf"'{name}'") as caught:
                load_checkpoint(name, trust_pickle=trust)
            assert "\n" not in str(caught.value)
    for missing in ("nowhere.pth", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match="no checkpoint file"):
            load_checkpoint(missing)


@pytest.mark.parametrize(
    "change", [{"format": "recbole_diffusion/9"}, {"state_dict": None}, {"__recbole_diffusion__": 1}]
)
def test_files_of_another_format(change, data):
    file = train("BPR", data).trainer.saved_model_file
    state = torch.load(file, weights_only=True)
    for key, value in change.items():
        state[key] = value
        if value is None:
            del state[key]
    if "__recbole_diffusion__" in change:
        state["other_parameter"] = {"__recbole_diffusion__": "sparse"}
    torch.save(state, "x.pth")
    with pytest.raises(ValueError, match="'x.pth' is (not a checkpoint of format recbole_diffusion/1|damaged)"):
        load_checkpoint("x.pth")


def test_a_setting_that_looks_like_code_stays_a_string(data, tmp_path):
    text = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"
    job = train("BPR", data, note=text)
    saved = load_checkpoint(job.trainer.saved_model_file)
    assert saved["settings"]["note"] == text
    assert config_from(saved)["note"] == text
    config, *_ = load_data_and_model(job.trainer.saved_model_file)
    assert config["note"] == text and not (tmp_path / "ran").exists()
