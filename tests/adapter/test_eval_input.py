"""At test time, the users' rows are those of training and validation; the weights are those of training."""

import numpy as np
import pytest
import recbole.data.utils
import recbole.quick_start
import torch
from recbole.data import create_dataset
from recbole.utils import get_trainer
from recbole.utils.case_study import full_sort_scores

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.eval_input import input_of
from recbole_diffusion.adapter.lookup import get_model
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, checkerboard, two_circles, write_inter

SMALL = {
    "DiffRec": {"dims_dnn": [8], "steps": 3},
    "AAE": {"latent_dimension": 4, "hidden": [8], "d_hidden": [4]},
    "CFGAN": {"mode": "item", "g_hidden": [8], "d_hidden": [4]},
    "MultiVAE": {"latent_dimension": 4, "mlp_hidden_size": [8], "train_neg_sample_args": None},
    "EASE": {},
    "SLIMElastic": {},
    "ItemKNN": {"k": 10},
}


def prepared(name, folder, **more):
    config = build_config(name, "checkerboard", None, QUIET | checkerboard(folder) | SMALL[name] | more)
    loaders = recbole.data.utils.data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    return get_model(name)(config, loaders[0]._dataset).eval(), *loaders


def matrix(part):
    return part.inter_matrix(form="csr").astype(np.float32).toarray()


@torch.no_grad()
def scores(model, rows):
    """Scores by the definition of each model, from dense rows ``[users, items]`` with the padding column."""
    if hasattr(model, "item_similarity"):
        return torch.as_tensor(np.asarray(rows @ np.asarray(_dense(model.item_similarity))))
    if hasattr(model, "w"):
        return torch.as_tensor(rows @ _dense(model.w))
    rows = torch.as_tensor(rows)
    if hasattr(model, "generator"):  # item rows in, user columns out
        out = model.generator(torch.as_tensor(rows).T[1:, 1:])
        return torch.cat([torch.full((1, len(rows)), -torch.inf), torch.nn.functional.pad(out, (1, 0))]).T
    if hasattr(model, "decoder") and hasattr(model, "discriminator"):
        out = model.decoder(model.encoder(torch.nn.functional.normalize(torch.as_tensor(rows)[:, 1:])))
        return torch.nn.functional.pad(out, (1, 0))
    if hasattr(model, "network"):
        x = rows[:, 1:]
        for t in (2, 1, 0):  # Algorithm 2 by its formula: posterior means
            x_0 = model.network(x, torch.full((len(x),), t))
            x = (model.process.posterior_mean(x_0, x, torch.full((len(x),), t))).float()
        return torch.cat([torch.full((len(x), 1), -torch.inf), x], 1)
    return model.forward(rows)[0]


def _dense(matrix):
    return matrix.toarray() if hasattr(matrix, "toarray") else matrix


@pytest.mark.parametrize("name", SMALL)
def test_scores_are_those_of_the_longer_rows(name, tmp_path):
    model, train_data, valid_data, test_data = prepared(name, tmp_path, test_input="train+valid")
    train, valid = train_data._dataset, valid_data._dataset
    users = torch.arange(1, train.user_num)
    batch = {"user_id": users}

    def check(rows):
        found = model.full_sort_predict(batch).view(len(users), -1)
        torch.testing.assert_close(found[:, 1:], scores(model, rows)[1:, 1:], rtol=1e-4, atol=1e-5)
        return found[:, 1:]

    before = check(matrix(train))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with input_of(model, valid_data):
        check(matrix(train))
    with input_of(model, test_data):
        assert not torch.allclose(check(matrix(train) + matrix(valid)), before, atol=1e-3)
    check(matrix(train))
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def scattered(folder):
    """Random interactions, of which nothing is learnt perfectly, in three parts."""
    random = np.random.default_rng(0)
    pairs = random.permutation([(user, item, item) for user in range(40) for item in random.choice(30, 9, replace=False)])
    for name, rows in zip(("train", "valid", "test"), np.split(pairs, [200, 280]), strict=True):
        write_inter(folder, "scattered", rows, name)
    return COLUMNS | {"data_path": str(folder), "benchmark_filename": ["train", "valid", "test"]}


@pytest.mark.parametrize("name", ["DiffRec", "EASE", "ItemKNN"])
def test_every_way_to_evaluate_shows_the_same(name, tmp_path):
    """Our command, a stock script, ``Trainer.evaluate`` and ``full_sort_scores`` after ``load_data_and_model``."""
    settings = QUIET | scattered(tmp_path) | SMALL[name] | {"epochs": 1, "metrics": ["NDCG"], "valid_metric": "NDCG@10"}
    settings |= {"test_input": "train+valid", "protocol": "ratio-80-10-10", "checkpoint_dir": str(tmp_path / "saved")}
    ours = run_recbole_diffusion(name, "scattered", None, settings)
    plain = run_recbole_diffusion(name, "scattered", None, settings | {"test_input": "train"})
    stock = recbole.quick_start.run_recbole(name, "scattered", config_dict=settings, saved=True)
    config, model, _, train_data, valid_data, test_data = recbole.quick_start.load_data_and_model(ours["checkpoint"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert trainer.evaluate(test_data, load_best_model=False) == ours["test"] == dict(stock["test_result"])
    assert ours["test"] != plain["test"]
    rows = matrix(train_data._dataset) + matrix(valid_data._dataset)
    found = full_sort_scores([1, 2], model, test_data)
    expected = scores(model, rows)[1:3]
    kept = torch.isfinite(found)
    torch.testing.assert_close(found[kept], expected[kept].float(), rtol=1e-4, atol=1e-5)


def test_a_run_says_what_it_showed(tmp_path):
    settings = QUIET | checkerboard(tmp_path) | SMALL["DiffRec"] | {"epochs": 3, "checkpoint_dir": str(tmp_path)}
    plain = run_recbole_diffusion("DiffRec", "checkerboard", None, settings)
    shown = run_recbole_diffusion("DiffRec", "checkerboard", None, settings | {"test_input": "train+valid"})
    assert shown["protocol_overrides"]["test_input"] == "train+valid" and "test_input" not in plain["protocol_overrides"]
    assert shown["valid"] == plain["valid"] and shown["test"] != plain["test"]


@pytest.mark.parametrize("model, more", [("BPR", {}), ("Pop", {}), ("ItemKNN", {"knn_method": "user"}), ("SASRec", {})])
def test_models_without_such_an_input_are_refused(model, more, tmp_path):
    data = two_circles(tmp_path)
    with pytest.raises(SettingsError, match=f"{model} reads no list of a user's items"):
        build_config(model, "circles", None, QUIET | data | {"test_input": "train+valid"} | more)
    with pytest.raises(SettingsError, match="test_input = 'both': must be one of train, train.valid"):
        build_config(model, "circles", None, QUIET | data | {"test_input": "both"} | more)
