"""The likelihood terms against a computation row by row with torch.distributions, and the command around them."""

import json
import math
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from recbole_diffusion import load_data_and_model
from recbole_diffusion.analysis.elbo import elbo_of, elbo_table
from recbole_diffusion.cli import main
from recbole_diffusion.diffusion.noise import keyed_noise
from recbole_diffusion.settings import SettingsError

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from contract import Prepared  # noqa: E402

DIFFREC = {"dims_dnn": [16], "steps": 5, "train_batch_size": 8, "epochs": 10, "learning_rate": 0.01}
DREAMREC = {"hidden_size": 8, "inner_size": 8, "steps": 4, "train_batch_size": 256, "epochs": 3, "learning_rate": 0.01}
MODELS = {
    "DiffRec": ("DiffRec", DIFFREC),
    "DiffRec-eps": ("DiffRec", DIFFREC | {"mean_type": "eps", "norm": True, "epochs": 2}),
    "LDiffRec": ("LDiffRec", DIFFREC | {"in_dims": [8], "svd_rank": 4, "epochs": 2}),
    "DreamRec": ("DreamRec", DREAMREC | {"guidance_scale": 2.0}),
    "DreamRec-mlp2-eps": ("DreamRec", DREAMREC | {"mean_type": "eps", "denoiser": "mlp2", "epochs": 1}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {
        key: Prepared(name, settings, tmp_path_factory.mktemp(key)).fit().trainer.saved_model_file
        for key, (name, settings) in MODELS.items()
    }


def untrained(name, settings, folder):
    """The checkpoint of a model that has seen nothing."""
    run = Prepared(name, settings, folder)
    run.trainer._save_checkpoint(0, verbose=False)
    return run.trainer.saved_model_file


def the_row(model, train, part, row):
    """x_0 of a row of the part and the network as a function of (x_t, t), each [1, .], from RecBole's data sets."""
    if model.type.name == "GENERAL":
        user = sorted(set(part.inter_feat["user_id"].tolist()))[row]
        x_0 = torch.zeros(1, train.item_num - 1, dtype=torch.float64)
        for other, item in zip(train.inter_feat["user_id"].tolist(), train.inter_feat["item_id"].tolist(), strict=True):
            if other == user:
                x_0[0, item - 1] = 1.0
        if hasattr(model, "autoencoder"):
            x_0 = model.autoencoder.encode(model.autoencoder.ordered(x_0))[0]
        return x_0, model.network
    question = part.inter_feat[[row]]
    cond = model.condition(question)
    return model.item_embedding.weight[question["item_id"]], lambda x, t: model.network(x, cond, t)


def slowly(model, train, part, rows, samples):
    """Means over rows and draws of L_0 .. L_T, from betas, Bayes' rule and torch's own divergences."""
    model = model.double().eval()
    betas = model.process.betas.tolist()
    T, collected = len(betas), []
    for row in rows:
        x_0, network = the_row(model, train, part, row)
        noise = keyed_noise(torch.tensor([row]), model.noise_seed)
        for sample in range(samples):
            abar, terms = 1.0, []
            for t, beta in enumerate(betas):
                before, abar = abar, abar * (1 - beta)
                x_t = math.sqrt(abar) * x_0 + math.sqrt(1 - abar) * noise(x_0, sample * T + t)
                guess = network(x_t, torch.tensor([t]))
                if model.settings.mean_type == "eps":
                    guess = (x_t - math.sqrt(1 - abar) * guess) / math.sqrt(abar)
                if t == 0:
                    terms.append(-Normal(guess, math.sqrt(beta)).log_prob(x_0).sum())
                    continue
                # Bayes: N(x_t; sqrt(1 - beta) x, beta) as a function of x, times N(x; sqrt(before) x_0, 1 - before).
                precision = (1 - beta) / beta + 1 / (1 - before)
                posterior = [
                    Normal((math.sqrt(1 - beta) / beta * x_t + math.sqrt(before) / (1 - before) * x) / precision,
                           precision**-0.5)
                    for x in (x_0, guess)
                ]  # fmt: skip
                terms.append(kl_divergence(*posterior).sum())
            terms.append(kl_divergence(Normal(math.sqrt(abar) * x_0, math.sqrt(1 - abar)), Normal(0.0, 1.0)).sum())
            collected.append(torch.stack(terms))
    return torch.stack(collected)


@pytest.mark.parametrize("key", MODELS)
def test_the_command_s_numbers_are_those_of_the_slow_computation(key, checkpoints, capsys):
    command = ["elbo", checkpoints[key], "--samples=2", "--rows=100000", "--json=out/elbo.json"]
    assert main(command) == 0
    table = capsys.readouterr().out
    result = json.loads(Path("out/elbo.json").read_text())
    _, model, _, train_data, _, test_data = load_data_and_model(checkpoints[key])
    with torch.no_grad():
        rows = range(result["rows"])
        draws = slowly(model, train_data._dataset, test_data._dataset, rows, 2).view(len(rows), 2, -1)

    T = model.process.n_steps
    assert [term["t"] for term in result["by_t"]] == list(range(T + 1))
    columns = {t: draws[..., t] for t in range(T + 1)}
    for t, draw in columns.items():
        check(result["by_t"][t], draw)
    assert result["reconstruction_nll"] == {name: result["by_t"][0][name] for name in ("mean", "se", "row_sd")}
    check(result["prior_kl"], draws[..., T])
    check(result["posterior_kl"], draws[..., 1:T].sum(-1))
    check(result["total"], draws.sum(-1))
    users = 200 if key.startswith("DreamRec") else 40
    assert result["rows"] == result["rows_of_part"] == users and result["samples"] == 2 and result["steps"] == T
    assert result["unit"] == ("nats per user" if users == 40 else "nats per target item")

    for name in ("L_T", "L_0", "total"):
        term = result[{"L_T": "prior_kl", "L_0": "reconstruction_nll", "total": "total"}[name]]
        (line,) = (line for line in table.splitlines() if line.startswith(name + " "))
        assert float(line.split()[-3]) == pytest.approx(term["mean"], rel=1e-3, abs=1e-3)
    listed = [int(line.split()[0]) for line in table.splitlines() if line[:1].isdigit() and len(line.split()) == 4]
    assert listed == list(range(1, T))  # few steps: none is left out


@pytest.mark.parametrize("name", ["MaskDiff", "PriorDiff"])
def test_the_probability_of_an_item_from_the_scores_of_single_histories(name, tmp_path, capsys):
    """From the scores of single histories, as RecBole asks for them, which are log-probabilities up to a constant."""
    run = Prepared(name, {"hidden_size": 8, "inner_size": 8, "n_heads": 1, "epochs": 2, "train_batch_size": 64}, tmp_path).fit()
    checkpoint = run.trainer.saved_model_file
    assert main(["elbo", checkpoint, "--rows=100000", "--json=elbo.json"]) == 0
    table, result = capsys.readouterr().out, json.loads(Path("elbo.json").read_text())
    _, model, _, _, _, test_data = load_data_and_model(checkpoint)
    nll = []
    for row in range(len(test_data._dataset)):
        question = test_data._dataset.inter_feat[[row]]
        scores = model.eval().full_sort_predict(question).detach().double()[0, 1:]
        nll.append(float(scores.exp().sum().log() - scores[int(question["item_id"]) - 1]))
    mean = sum(nll) / len(nll)
    assert result["rows"] == result["rows_of_part"] == len(nll) and result["items"] == model.n_items - 1
    assert result["total"]["mean"] == pytest.approx(mean, rel=1e-5)
    assert result["total"]["row_sd"] == pytest.approx(torch.tensor(nll).double().std().item(), rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    (line,) = (line for line in table.splitlines() if line.startswith("mean "))
    assert float(line.split()[1]) == pytest.approx(mean, abs=1e-3)
    assert main(["elbo", checkpoint, "--plot=elbo.png"]) == 2 and "no terms by t" in capsys.readouterr().err


def check(term, draws):
    """A term of the result against draws [rows, samples]."""
    mean = draws.mean()
    se = math.sqrt(float(draws.var(dim=1).sum()) / draws.shape[1]) / len(draws)
    assert term["mean"] == pytest.approx(float(mean), rel=1e-7)
    assert term["se"] == pytest.approx(se, rel=1e-5, abs=1e-12 * abs(float(mean)))
    assert term["row_sd"] == pytest.approx(float(draws.mean(dim=1).std()), rel=1e-6)


@pytest.fixture(scope="module")
def loaded(checkpoints):
    _, model, _, train, valid, test = load_data_and_model(checkpoints["DiffRec"])
    return model, {"train": train, "valid": valid, "test": test}


def test_standard_errors_are_honest_and_shrink_with_the_root_of_samples(loaded):
    model, parts = loaded
    few = [elbo_of(model, parts["test"], samples=4, seed=seed) for seed in range(40)]
    many = elbo_of(model, parts["test"], samples=100, seed=1000)
    for name in ("reconstruction_nll", "posterior_kl", "total"):
        mean_se = sum(result[name]["se"] for result in few) / len(few)
        assert many[name]["se"] == pytest.approx(mean_se / 5, rel=0.1)
        # What the standard error claims is what different seeds do.
        means = torch.tensor([result[name]["mean"] for result in few], dtype=torch.float64)
        assert float(means.std()) == pytest.approx(mean_se, rel=0.35)
        assert abs(float(means.mean()) - many[name]["mean"]) < 4 * math.hypot(mean_se / len(few) ** 0.5, many[name]["se"])
    assert few[0]["prior_kl"]["se"] == 0


def test_repeatable_and_the_model_is_left_alone(loaded):
    model, parts = loaded
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (elbo_of(model, parts["test"]) for _ in range(2))
    assert first == second and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # DiffRec's x_0 is the training row, so a part only says whose.
    assert elbo_of(model, parts["train"]) == first
    one = elbo_of(model, parts["test"], samples=1, rows=1)
    assert one["total"]["se"] is None and one["total"]["row_sd"] is None and one["rows"] == 1
    assert one["rows_of_part"] == 40 and " - " in elbo_table(one)


def test_users_without_training_interactions_have_no_row(loaded):
    model, parts = loaded
    full = elbo_of(model, parts["test"])
    crow = model.rows.crow.clone()
    try:
        model.rows.crow[1:3] = crow[3]  # users 1 and 2 lose their rows; the others keep theirs
        model.rows.crow[0] = crow[3]
        without = elbo_of(model, parts["test"])
    finally:
        model.rows.crow.copy_(crow)
    assert without["rows"] == full["rows"] - 2 and math.isfinite(without["total"]["mean"])


def test_of_many_steps_the_table_lists_a_few(loaded):
    model, parts = loaded
    result = elbo_of(model, parts["test"])
    term = result["by_t"][1]
    lines = elbo_table(result | {"steps": 500, "by_t": [term | {"t": t} for t in range(501)]}).splitlines()
    listed = [int(line.split()[0]) for line in lines if line[:1].isdigit() and len(line.split()) == 4]
    assert listed[:3] == [1, 2, 3] and listed[-1] == 499 and len(listed) <= 12


def test_a_single_step_has_no_posterior_terms(tmp_path):
    file = untrained("DiffRec", DIFFREC | {"steps": 1}, tmp_path)
    assert main(["elbo", file, "--json=one.json", "--plot=one.png"]) == 0
    result = json.loads(Path("one.json").read_text())
    assert [term["t"] for term in result["by_t"]] == [0, 1] and result["posterior_kl"]["mean"] == 0
    parts = result["prior_kl"]["mean"] + result["reconstruction_nll"]["mean"]
    assert result["total"]["mean"] == pytest.approx(parts)


def test_the_plot_is_an_image(checkpoints):
    assert main(["elbo", checkpoints["DreamRec"], "--rows=5", "--plot=folder/elbo.png"]) == 0
    data = Path("folder/elbo.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 5000


def test_plot_without_matplotlib_says_what_to_install(checkpoints, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["elbo", checkpoints["DreamRec"], "--plot=elbo.png"]) == 2
    assert "pip install 'recbole_diffusion[plot]'" in one_line(capsys)


def one_line(capsys):
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and out == ""
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples=0"], "samples = 0: must be an integer >= 1"),
        (["--rows=-1"], "rows = -1: must be an integer >= 1"),
        (["--plot=elbo.txt"], "must end in .png"),
        (["--sample=1"], "unknown argument '--sample=1'"),
        (["--json=plain/elbo.json"], "cannot write plain/elbo.json"),
        (["--plot=folder.png"], "picture 'folder.png'"),
    ],
)
def test_bad_options_are_one_line_and_status_2(arguments, message, checkpoints, capsys):
    Path("plain").touch()
    Path("folder.png").mkdir()
    status = main(["elbo", checkpoints["DiffRec"], "--rows=2", *arguments])
    out, err = capsys.readouterr()
    assert status == 2 and message in err and err.startswith("error: ") and err.count("\n") == 1


def test_bad_checkpoints_are_one_line_and_status_2(tmp_path, capsys, checkpoints):
    Path("text.pth").write_text("not a checkpoint")
    Path("pickle.pth").write_bytes(pickle.dumps({"config": 1, "state_dict": {}}))
    Path("half.pth").write_bytes(Path(checkpoints["DiffRec"]).read_bytes()[:3000])
    stored = torch.load(checkpoints["DiffRec"], weights_only=True)
    torch.save(stored | {"settings": stored["settings"] | {"data_path": "elsewhere"}}, "moved.pth")
    torch.save(stored | {"settings": stored["settings"] | {"dims_dnn": [9]}}, "misfit.pth")
    clean = untrained("DiffRec", DIFFREC | {"noise_scale": 0.0}, tmp_path / "clean")
    other = untrained("StockDiffRec", {"train_neg_sample_args": None}, tmp_path / "other")
    for file, message in {
        "nosuch.pth": "no checkpoint file 'nosuch.pth'",
        "text.pth": "is not a checkpoint",
        "pickle.pth": "add --trust-pickle",
        "half.pth": "half.pth",
        "moved.pth": "unknown dataset 'checkerboard'",
        "misfit.pth": "size mismatch",
        clean: "noise_scale = 0",
        other: "StockDiffRec has no likelihood; DiffRec, TDiffRec, LDiffRec, LTDiffRec, DreamRec, MaskDiff, PriorDiff have",
    }.items():
        assert main(["elbo", file]) == 2, file
        assert message in one_line(capsys), file


def test_no_likelihood_is_said_from_python_too(loaded):
    _, parts = loaded
    with pytest.raises(SettingsError, match="Linear has no likelihood;"):
        elbo_of(torch.nn.Linear(1, 1), parts["test"])
