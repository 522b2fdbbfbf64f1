"""Stock entry points of RecBole find our models."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import recbole.quick_start
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model, objective_function, run_recbole
from recbole.utils import get_model

import recbole_diffusion
from recbole_diffusion import registry
from recbole_diffusion.adapter import lookup
from recbole_diffusion.settings import SettingsError
from toy import QUIET, checkerboard, two_circles

SMALL = {
    "DiffRec": {"dims_dnn": [8], "steps": 3, "epochs": 2},
    "DreamRec": {"hidden_size": 8, "inner_size": 8, "steps": 5, "beta_end": 0.3, "epochs": 2},
}


@pytest.fixture(params=list(SMALL))
def job(request, tmp_path):
    """Model, data set and settings of a short stock run."""
    if request.param == "DiffRec":
        return "DiffRec", "checkerboard", QUIET | SMALL["DiffRec"] | checkerboard(tmp_path / "data")
    return "DreamRec", "circles", QUIET | SMALL["DreamRec"] | two_circles(tmp_path / "data")


def test_stock_run_then_stock_load(job, tmp_path):
    model, dataset, settings = job
    result = run_recbole(model=model, dataset=dataset, config_dict=settings)
    assert result["test_result"]["recall@10"] >= 0
    saved = list((tmp_path / "saved").glob(f"{model}-*.pth"))
    assert len(saved) == 1
    config, loaded, _, train, _, test = load_data_and_model(str(saved[0]))
    assert config["model"] == model and type(loaded) is lookup.get_model(model)
    assert type(train) is type(lookup.get_dataloader(config, "train")(config, train._dataset, None, shuffle=True))
    with torch.no_grad():
        assert loaded.eval().full_sort_predict(next(iter(test))[0])[:, 1:].isfinite().all()


def test_objective_function_under_hyper_tuning(job):
    pytest.importorskip("hyperopt", reason="hyperopt comes with the test extra")
    from recbole.trainer import HyperTuning

    model, dataset, settings = job
    fixed = settings | {"model": model, "dataset": dataset, "epochs": 1}
    tuning = HyperTuning(
        lambda config_dict, config_file_list: objective_function(fixed | config_dict, config_file_list, saved=False),
        params_dict={"choice": {"learning_rate": [0.01, 0.001]}},
        algo="random",
        max_evals=2,
    )
    tuning.run()
    assert tuning.params2result and set(tuning.best_params) == {"learning_rate"}


@pytest.mark.parametrize("name", ["DiffRec", "DreamRec", "StockDiffRec", "StockLDiffRec"])
def test_config_takes_a_name_or_a_class(name):
    cls = get_model(name)
    assert cls.__name__ == name
    by_name, by_class = (Config(model=model, dataset="ml-100k") for model in (name, cls))
    assert by_class.model_class is by_name.model_class is cls
    assert by_class["steps"] == by_name["steps"]


def test_recbole_s_own_diffrec_stays_reachable():
    ours, stock = get_model("DiffRec"), get_model("StockDiffRec")
    assert ours.__module__.startswith("recbole_diffusion.")
    assert stock.__mro__[1].__module__ == "recbole.model.general_recommender.diffrec"
    from recbole.model.general_recommender import DiffRec

    assert DiffRec is ours


def test_a_spawned_worker_registers_the_plugin():
    """multiprocessing pickles the worker's name; whoever unpickles it must end up with our models."""
    payload = pickle.dumps(recbole.quick_start.run_recboles)
    code = (
        f"import pickle; pickle.loads({payload!r}); from recbole.utils import get_model; print(get_model('DreamRec'))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "recbole_diffusion.model.sequential_recommender.dreamrec.DreamRec" in output


def test_registering_twice_changes_nothing():
    before = recbole.data.utils.get_dataloader, Config.__init__
    recbole_diffusion.register()
    assert before == (recbole.data.utils.get_dataloader, Config.__init__)


@pytest.mark.parametrize(("name", "guess"), [("DreamRek", "DreamRec"), ("bpr", "BPR"), ("SasRec", "SASRec")])
def test_an_unknown_model_names_the_closest(name, guess):
    with pytest.raises(SettingsError, match=f"unknown model '{name}': did you mean '{guess}'"):
        get_model(name)


def test_every_model_of_recbole_is_listed_and_found():
    for name in registry.stock_models():
        assert get_model(name).__name__ == name


def test_every_model_is_listed_once_in_a_known_group():
    groups = registry.listed()
    ours = [group for group in registry.GROUPS if group in groups]
    assert list(groups)[: len(ours)] == ours
    names = [name for members in groups.values() for name in members]
    assert sorted(names) == sorted({*registry.MODELS, *registry.stock_models()})
    assert {"MultiVAE", "MultiDAE", "MacridVAE", "RecVAE", "CDAE"} <= set(groups["VAE"])
    assert {"SASRec", "PackedSASRec", "GRU4Rec", "PackedGRU4Rec", "Caser", "BERT4Rec"} == set(groups["sequential"])
    assert {"TEASE", "SequentialKNN", "Pop", "ItemKNN", "EASE", "SLIMElastic", "LightGCN"} == set(groups["simple"])


def test_the_page_of_models_has_every_model_of_our_groups():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for group in registry.GROUPS:
        for name in registry.listed().get(group, []):
            assert f"**{name}**" in page, name
