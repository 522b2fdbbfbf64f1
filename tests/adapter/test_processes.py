"""Two processes train one model on CPUs, and evaluate it as one process does."""

import json
from pathlib import Path

import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import run_recbole
from recbole.utils import get_trainer

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.lookup import get_model
from recbole_diffusion.adapter.processes import free_port, launch
from recbole_diffusion.cli import main
from toy import QUIET, checkerboard, two_circles

USERS = 41  # odd: the sampler that RecBole takes would give one of them to both processes
SMALL = QUIET | {"eval_step": 4, "topk": [1, 5], "valid_metric": "NDCG@5", "metric_decimal_place": 12}
# GAUC ranks all items, ItemCoverage is no mean over users; means over processes would be wrong even with right weights.
METRICS = {"metrics": ["Recall", "NDCG", "GAUC", "ItemCoverage"]}
JOBS = {
    "DiffRec": {"dims_dnn": [16], "steps": 3, "learning_rate": 0.01, "epochs": 24, "train_batch_size": 20, "dropout": 0.1},
    "BPR": {"embedding_size": 8, "learning_rate": 0.02, "epochs": 12, "train_batch_size": 200},
    "DreamRec": {
        "hidden_size": 32, "inner_size": 32, "guidance_scale": 0.5, "beta_end": 0.3, "steps": 20, "learning_rate": 0.01,
        "epochs": 24, "train_batch_size": 50, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
    },
}  # fmt: skip


def job(model, folder):
    dataset = "circles" if model == "DreamRec" else "checkerboard"
    data = two_circles(folder, USERS) if model == "DreamRec" else checkerboard(folder, USERS)
    return model, dataset, SMALL | METRICS | JOBS[model] | data


def evaluate(model, dataset, settings, checkpoint):
    """Test metrics of the model that is in a checkpoint."""
    config = Config(model=model, dataset=dataset, config_dict=settings)
    train, _, test = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
    trainer.eval_collector.data_collect(train)
    return dict(trainer.evaluate(test, model_file=checkpoint))


def in_each_process(several, jobs, folder):
    """Evaluates the checkpoints, then trains with RecBole's own entry point."""
    found = {}
    for *asked, settings, checkpoint, port in jobs:
        settings |= several | {"port": port}  # run_recbole ends what it began; the next job meets elsewhere
        evaluated = evaluate(*asked, settings, checkpoint)
        trained = run_recbole(*asked, config_dict=settings | {"checkpoint_dir": str(folder / "two")})
        found[asked[0]] = {"evaluated": evaluated, "valid": trained["best_valid_result"], "test": trained["test_result"]}
    (folder / f"{several['local_rank']}.json").write_text(json.dumps(found, default=float))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of each model: what one process found, and what each of two did."""
    folder, one, jobs = tmp_path_factory.mktemp("processes"), {}, []
    for model in JOBS:
        asked = job(model, folder)
        record = run_recbole_diffusion(*asked[:2], None, asked[2] | {"checkpoint_dir": str(folder / "one")})
        jobs.append((*asked, record["checkpoint"], free_port()))
        one[model] = {"evaluated": evaluate(*asked, record["checkpoint"]), "test": record["test"]}
    launch(in_each_process, 2, jobs, folder)
    return one, *(json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))


@pytest.mark.parametrize("model", JOBS)
def test_two_processes_find_what_one_finds(model, results):
    one, first, second = (part[model] for part in results)
    assert first == second
    assert first["evaluated"] == one["evaluated"]
    assert {"recall@5", "ndcg@5", "gauc", "itemcoverage@5"} <= set(one["evaluated"])


@pytest.mark.parametrize("model", JOBS)
def test_two_processes_learn_what_one_learns(model, results):
    one, first, _ = (part[model] for part in results)
    assert one["test"]["recall@5"] > 0.8  # chance is 5 of some 24 items
    assert first["test"]["recall@5"] == pytest.approx(one["test"]["recall@5"], abs=0.15)


def test_nproc_on_the_command_line(tmp_path, capfd):
    settings = SMALL | {"dims_dnn": [8], "epochs": 2, "eval_step": 1} | checkerboard(tmp_path / "data", USERS)
    arguments = ["run", "--model=DiffRec", "--dataset=checkerboard", *(f"--{key}={value}" for key, value in settings.items())]
    assert main([*arguments, "--nproc=2", "--record=run.json"]) == 0
    out = capfd.readouterr().out
    record = json.loads(Path("run.json").read_text())
    assert record["processes"] == 2 and len(record["curve"]) == 2 and set(record["valid"]) == set(record["test"])
    assert out.count("DiffRec on checkerboard") == 1 and out.count("recall@5") == 1
    assert [str(file) for file in Path().glob("*.json")] == ["run.json"] and len(list(Path("saved").glob("*.pth"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=CFGAN", "--nproc=2"], "nproc = 2: must be 1 for CFGAN, which has several optimisers"),
        (["--model=DiffRec", "--nproc=2", "--resume"], "nproc = 2: must be 1 for resume"),
        (["--model=DiffRec", "--nproc=0"], "nproc = 0: must be an integer >= 1"),
    ],
)
def test_what_several_processes_cannot_do_is_one_line(arguments, message, tmp_path, capsys):
    settings = [f"--{key}={value}" for key, value in checkerboard(tmp_path / "data").items()]
    assert main(["run", "--dataset=checkerboard", *settings, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
