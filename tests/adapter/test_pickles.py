"""Pickles that a data set, its settings or the working directory bring are not run, whatever the entry."""

import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import NeuMF
from recbole.quick_start import run_recbole
from recbole.quick_start.quick_start import load_data_and_model

import recbole_diffusion
from recbole_diffusion.cli import main
from toy import QUIET, two_circles

SMALL = QUIET | {"epochs": 1, "embedding_size": 8}


class Evil:
    """A pickle that leaves a folder ``ran`` behind when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "ran"),)


@pytest.fixture
def data(tmp_path):
    return SMALL | two_circles(tmp_path, users=40)


def plant(folder, name):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as opened:
        pickle.dump(Evil(folder), opened)
    return file


def arguments(data):
    return ["run", "--model=BPR", "--dataset=circles", *(f"--{key}={value}" for key, value in data.items())]


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_a_pickle_that_the_data_s_yaml_names(tmp_path, data, capsys, key):
    file = plant(tmp_path, "circles/cache.pth")
    (tmp_path / "circles" / "circles.yaml").write_text(f"{key}: {file}\n")
    assert main(arguments(data)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{key} = '{file}': a pickle" in error and "--trust-pickle" in error
    assert not (tmp_path / "ran").exists()
    assert main([*arguments(data), "--trust-pickle"]) != 0  # RecBole can do nothing with what the pickle returns
    assert (tmp_path / "ran").exists(), "the file does what it is made for"


PLANTED = ["circles-Dataset.pth", "circles-for-BPR-dataloader.pth"]


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("entry", ["run", "run_recbole", "create_dataset"])
def test_a_pickle_in_the_working_directory(tmp_path, data, capsys, caplog, name, entry):
    plant(tmp_path, f"saved/{name}")
    if entry == "run":
        assert main(arguments(data | {"state": "WARNING"})) == 0
    elif entry == "run_recbole":
        assert run_recbole(model="BPR", dataset="circles", config_dict=data)["test_result"]
    else:
        config = Config(model="BPR", dataset="circles", config_dict=data)
        assert len(data_preparation(config, create_dataset(config))[0])
        assert config["dataset_save_path"] is None
    assert not (tmp_path / "ran").exists()
    (said,) = [record for record in caplog.records if "pickle" in record.message]
    assert said.message.startswith(f"saved/{name} is not read") and "\n" not in said.message


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_a_pickle_that_a_stock_script_s_settings_name(tmp_path, data, key):
    file = plant(tmp_path, "cache.pth")
    with pytest.raises(ValueError, match=rf"^{key} = '{file}': a pickle"):
        run_recbole(model="BPR", dataset="circles", config_dict=data | {key: str(file)})
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_a_checkpoint_s_settings_name(tmp_path, data):
    run_recbole(model="BPR", dataset="circles", config_dict=data | {"dataset_save_path": "cache.pth", "checkpoint_dir": "s"})
    plant(tmp_path, "cache.pth")
    (checkpoint,) = (tmp_path / "s").glob("BPR*.pth")
    with pytest.raises(ValueError, match="^dataset_save_path = 'cache.pth': a pickle"):
        load_data_and_model(str(checkpoint))
    assert not (tmp_path / "ran").exists()


def test_recbole_s_own_caches_are_read_on_request(tmp_path, data, caplog):
    saving = data | {"save_dataset": True, "save_dataloaders": True}
    first = run_recbole(model="BPR", dataset="circles", config_dict=saving)
    assert all((tmp_path / "saved" / name).exists() for name in PLANTED)
    caplog.set_level("INFO")  # RecBole leaves the level alone where a handler is there already
    assert run_recbole(model="BPR", dataset="circles", config_dict=data) == first
    assert caplog.text.count("is not read") == 2 and "Load filtered dataset from" not in caplog.text
    with recbole_diffusion.trust_pickles():
        assert run_recbole(model="BPR", dataset="circles", config_dict=data) == first
    assert "Load filtered dataset from" in caplog.text and "Load split dataloaders from" in caplog.text
    assert caplog.text.count("is not read") == 2


@pytest.mark.parametrize("archive", [True, False])
def test_a_pretrained_model_that_the_data_s_yaml_names(tmp_path, data, capsys, archive):
    """On torch < 2.6 a plain torch.load runs it."""
    torch.save({"state_dict": Evil(tmp_path)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=archive)
    named = f"use_pretrain: True\nmf_pretrain_path: {tmp_path}/evil.pth\nmlp_pretrain_path: {tmp_path}/evil.pth\n"
    (tmp_path / "circles" / "circles.yaml").write_text(named)
    assert main([*arguments(data), "--model=NeuMF"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "evil.pth': a pickle" in error
    assert not (tmp_path / "ran").exists()


def test_a_pretrained_model_of_tensors_is_read(data):
    config = Config(model="NeuMF", dataset="circles", config_dict=data)
    dataset = create_dataset(config)
    dataset.build()
    for name, part in (("mf", {"mlp_train": False}), ("mlp", {"mf_train": False})):
        network = NeuMF(Config(model="NeuMF", dataset="circles", config_dict=data | part), dataset)
        torch.save({"state_dict": network.state_dict()}, f"{name}.pth")
    more = {"use_pretrain": True, "mf_pretrain_path": "mf.pth", "mlp_pretrain_path": "mlp.pth"}
    both = NeuMF(Config(model="NeuMF", dataset="circles", config_dict=data | more), dataset)
    assert torch.equal(network.user_mlp_embedding.weight, both.user_mlp_embedding.weight)


def test_item_embeddings_of_recbole_s_ldiffrec(tmp_path, data, capsys):
    """RecBole's own model unpickles ``item_emb.npy`` of the data set's folder."""
    array = np.empty(1, dtype=object)
    array[0] = Evil(tmp_path)
    np.save(tmp_path / "circles" / "item_emb.npy", array, allow_pickle=True)
    del data["embedding_size"]
    assert main([*arguments(data), "--model=StockLDiffRec", "--n_cate=2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "item_emb.npy': a pickle" in error
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir [ran]", "!!python/object/new:os.mkdir [[ran]]"])
def test_yaml_builds_no_objects(tmp_path, data, capsys, text):
    """The data set's own YAML, and a settings file."""
    (tmp_path / "mine.yaml").write_text(f"epochs: {text}\n")
    assert main([*arguments(data), "--config_files", "mine.yaml"]) == 2
    with warnings.catch_warnings(), pytest.raises(Exception):  # noqa: B017  (PyYAML's)
        warnings.simplefilter("ignore")
        run_recbole(model="BPR", dataset="circles", config_file_list=["mine.yaml"], config_dict=data)
    (tmp_path / "circles" / "circles.yaml").write_text(f"epochs: {text}\n")
    assert main(arguments(data)) == 2
    assert not (tmp_path / "ran").exists() and capsys.readouterr().err.count("\n") == 2
