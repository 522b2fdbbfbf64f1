"""Pictures show what the equations say: the drawn numbers are computed a second way."""

import json
import sys
from pathlib import Path

import pytest
import torch

from recbole_diffusion.adapter.trained import load_trained
from recbole_diffusion.cli import main
from recbole_diffusion.diffusion.process import GaussianDiffusion
from recbole_diffusion.plots.forward import plot_forward
from recbole_diffusion.plots.guidance import guidance_curve
from recbole_diffusion.plots.reverse import plot_reverse, reverse_path
from recbole_diffusion.plots.schedule import plot_schedule
from recbole_diffusion.plots.training import plot_training
from recbole_diffusion.settings import SettingsError

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from contract import Prepared  # noqa: E402

BETAS = [0.1, 0.2, 0.4]


@pytest.fixture(scope="module")
def dreamrec(tmp_path_factory):
    settings = {"hidden_size": 8, "inner_size": 8, "steps": 4, "beta_end": 0.5, "epochs": 3, "learning_rate": 0.01}
    return Prepared("DreamRec", settings, tmp_path_factory.mktemp("dreamrec")).fit().trainer.saved_model_file


@pytest.fixture(scope="module")
def diffrec(tmp_path_factory):
    settings = {"dims_dnn": [8], "steps": 3, "epochs": 2}
    return Prepared("DiffRec", settings, tmp_path_factory.mktemp("diffrec")).fit().trainer.saved_model_file


def drawn(axis):
    return axis.lines[0].get_ydata()


def test_the_schedule_is_drawn_as_it_is_defined():
    figure = plot_schedule(GaussianDiffusion(torch.tensor(BETAS)), "three steps")
    betas, signal, snr, weight = (drawn(axis) for axis in figure.axes)
    kept = [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.6]
    ratios = [a / (1 - a) for a in kept]
    assert betas == pytest.approx(BETAS) and signal == pytest.approx(kept) and snr == pytest.approx(ratios)
    assert weight == pytest.approx([(ratios[0] - ratios[1]) / 2, (ratios[1] - ratios[2]) / 2])


def test_the_forward_picture_mixes_data_and_one_noise():
    x_0, process = torch.tensor([1.0, 0.0, 0.0, 1.0]), GaussianDiffusion(torch.tensor(BETAS))
    rows = torch.as_tensor(plot_forward(x_0, process, "a row", "item", seed=3).axes[0].images[0].get_array().data)
    assert torch.equal(rows[0].float(), x_0)
    eps = []
    for row, kept in zip(rows[1:], [0.9, 0.72, 0.432], strict=True):
        eps.append((row - kept**0.5 * x_0) / (1 - kept) ** 0.5)
    for other in eps[1:]:
        torch.testing.assert_close(other, eps[0], rtol=1e-5, atol=1e-6)


def test_the_reverse_path_ends_at_the_item_that_the_plain_loop_generates(dreamrec):
    _, model, *_, test = load_trained(dreamrec)
    row = next(iter(test))[0][[2]]
    path = reverse_path(model, row)
    object.__setattr__(model.settings, "sampler", "ancestral")
    assert len(path) == model.process.n_steps + 1
    torch.testing.assert_close(path[-1:], model.generate(row))


def test_the_guidance_curve_is_the_evaluation_at_each_scale(dreamrec):
    config, model, _, train, valid, _ = load_trained(dreamrec)
    rows = guidance_curve(config, model, train, valid, [0.0, 3.0], k=5)
    for row in rows:
        object.__setattr__(model.settings, "guidance_scale", row["guidance_scale"])
        model.train().eval()
        hits, listed = [], set()
        for batch, *_ in valid:
            top = model.full_sort_predict(batch).topk(5).indices
            place = (top == batch[model.ITEM_ID][:, None]).double() / torch.log2(torch.arange(5) + 2.0)
            hits.append(place.sum(1))
            listed |= set(top.flatten().tolist())
        assert row["ndcg"] == pytest.approx(float(torch.cat(hits).mean()), abs=1e-4)
        assert row["coverage"] == pytest.approx(len(listed) / (model.n_items - 1), abs=2e-4)
    assert config["topk"] == [1, 5]


def test_the_reverse_picture_names_the_item_that_would_be_ranked_first():
    items, names = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), ["east", "north", "west"]
    path = torch.tensor([[-1.0, 0.0], [0.1, 0.9], [0.6, 1.0]])  # of the last, east has .6 x 2 and north 1
    axis = plot_reverse(path, items, names, [1], 2, "three items").axes[0]
    assert axis.texts[-1].get_text().splitlines()[1:] == ["1  t = 1: west", "2  t = 0: north", "3  generated: east"]


def record(**more):
    curve = [{"epoch": e, "train_loss": 1 / (e + 1), "valid_score": s} for e, s in enumerate([0.1, 0.3, 0.2])]
    run = {"model": "M", "dataset": "d", "protocol": "p", "seed": 1, "settings_hash": "0", "best_epoch": 1}
    return run | {"settings": {"valid_metric": "NDCG@10"}, "curve": curve} | more


def test_the_chosen_epoch_is_ringed():
    loss, score = plot_training([record()]).axes
    assert drawn(loss) == pytest.approx([1, 1 / 2, 1 / 3])
    ring = score.lines[1]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2], [0.3])
    with pytest.raises(SettingsError, match="several protocols"):
        plot_training([record(), record(protocol="q")])


@pytest.mark.parametrize(("kind", "suffix"), [("schedule", "svg"), ("forward", "png"), ("elbo", "png")])
@pytest.mark.parametrize("model", ["dreamrec", "diffrec"])
def test_the_command_writes_a_picture(kind, suffix, model, request, capsys):
    assert main(["plot", kind, request.getfixturevalue(model), "--out", f"new/p.{suffix}"]) == 0
    start = Path(f"new/p.{suffix}").read_bytes()[:5]
    assert start == (b"\x89PNG\r" if suffix == "png" else b"<?xml")
    assert f"picture: new/p.{suffix}" in capsys.readouterr().out


def test_reverse_guidance_and_training_draw(dreamrec):
    user = load_trained(dreamrec)[2].field2id_token["user_id"][3]
    assert main(["plot", "reverse", dreamrec, "--user", str(user), "--out", "r.svg"]) == 0
    assert Path("r.svg").is_file()
    assert main(["plot", "guidance", dreamrec, "--scales", "0", "2"]) == 0 and Path("guidance.png").is_file()
    Path("run.json").write_text(json.dumps(record()))
    assert main(["plot", "training", "run.json"]) == 0 and Path("training.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reverse", "DIFFREC"], "DiffRec generates no item"),
        (["guidance", "DIFFREC"], "DiffRec has no guidance scale"),
        (["reverse", "DREAMREC", "--user", "nobody"], "--user nobody: the data set has no such user"),
        (["schedule", "missing.pth"], "no checkpoint file 'missing.pth'"),
        (["schedule", "DREAMREC", "--out", "p.gif"], "picture 'p.gif': must end in .png or .svg"),
        (["guidance", "DREAMREC", "--scales", "-1"], "--scales -1: must be >= 0"),
        (["training", "missing.json"], "record 'missing.json'"),
        (["schedule", "DREAMREC", "DIFFREC"], "takes one checkpoint, got 2 files"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(arguments, says, dreamrec, diffrec, capsys):
    files = {"DREAMREC": dreamrec, "DIFFREC": diffrec}
    assert main(["plot", *(files.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
