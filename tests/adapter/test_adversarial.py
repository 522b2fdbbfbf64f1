import math
import re
from pathlib import Path

import pytest
import torch
from recbole.quick_start import run_recbole

from recbole_diffusion import load_data_and_model, run_recbole_diffusion
from recbole_diffusion.cli import main
from recbole_diffusion.model.general_recommender.cfgan import CFGAN
from recbole_diffusion.settings import NonFiniteLossError, SettingsError
from toy import QUIET, checkerboard

TINY = QUIET | {"g_hidden": [8], "d_hidden": [8], "epochs": 3, "eval_step": 1, "train_batch_size": 16}


def test_losses_and_coverage_are_in_the_record(tmp_path):
    settings = TINY | {"metrics": ["NDCG", "ItemCoverage", "GiniIndex"]} | checkerboard(tmp_path)
    record = run_recbole_diffusion("CFGAN", "checkerboard", None, settings)
    assert len(record["curve"]) == 3
    for entry in record["curve"]:
        assert set(entry["losses"]) == {"generator", "discriminator"}
        assert entry["train_loss"] == sum(entry["losses"].values()) and entry["valid_score"] >= 0
    assert 0 < record["test"]["itemcoverage@10"] < 1 and 0 <= record["test"]["giniindex@10"] < 1


def test_the_losses_are_means_over_the_player_s_moves(tmp_path, monkeypatch):
    values = {"generator_loss": [], "discriminator_loss": []}
    for name in values:
        plain = getattr(CFGAN, name)

        def loss(self, rows, name=name, plain=plain):
            result = plain(self, rows)
            values[name].append(result.item())
            return result

        monkeypatch.setattr(CFGAN, name, loss)
    record = run_recbole_diffusion("CFGAN", "checkerboard", None, TINY | {"epochs": 1} | checkerboard(tmp_path))
    for name, collected in values.items():
        assert record["curve"][0]["losses"][name.removesuffix("_loss")] == pytest.approx(sum(collected) / len(collected))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_loses_nothing(bad, tmp_path, monkeypatch):
    """The discriminator's third epoch fails: what the first two epochs found is on disc, untouched."""
    calls, plain = [], CFGAN.discriminator_loss

    def loss(self, rows):
        calls.append(len(rows))
        return plain(self, rows) * (bad if len(calls) == 6 else 1)

    monkeypatch.setattr(CFGAN, "discriminator_loss", loss)
    settings = TINY | {"d_steps": 2, "epochs": 9} | checkerboard(tmp_path)
    with pytest.raises(NonFiniteLossError) as error:
        run_recbole_diffusion("CFGAN", "checkerboard", None, settings)
    # 40 rows: 4 passes of the generator are 12 batches, 2 of the discriminator 2; the 6th of those ends epoch 2.
    assert f"CFGAN: discriminator loss is {bad} in epoch 2, batch 13; the best epoch so far is in saved" in str(error.value)
    assert "\n" not in str(error.value)
    _, model, *_ = load_data_and_model(next(Path("saved").glob("CFGAN-*.pth")))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_divergence_is_one_line_on_the_command_line(tmp_path, capsys):
    data = [f"--{key}={value}" for key, value in (QUIET | checkerboard(tmp_path)).items()]
    assert main(["run", "--model=CFGAN", "--dataset=checkerboard", "--learning_rate=1e30", *data]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: CFGAN: generator loss is (inf|nan) in epoch 0, batch 1\n", err)


def test_gradient_scaling_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="enable_scaler = True: must be False for CFGAN"):
        run_recbole_diffusion("CFGAN", "checkerboard", None, TINY | {"enable_scaler": True} | checkerboard(tmp_path))


def test_progress_is_shown_and_losses_go_to_tensorboard(tmp_path, capsys, monkeypatch):
    written = []
    writer = type("Writer", (), {"add_hparams": lambda *a: None, "add_scalar": lambda self, *a: written.append(a)})
    monkeypatch.setattr("recbole.trainer.trainer.get_tensorboard", lambda logger: writer())
    settings = TINY | {"show_progress": True, "epochs": 1} | checkerboard(tmp_path)
    record = run_recbole_diffusion("CFGAN", "checkerboard", None, settings)
    assert "Train     0" in capsys.readouterr().err
    losses = record["curve"][0]["losses"]
    assert {tag: value for tag, value, _ in written if tag.startswith("Loss")} == {
        "Loss/Train0": losses["generator"], "Loss/Train1": losses["discriminator"]}  # fmt: skip


def test_gradients_are_for_the_player_alone_and_come_back(tmp_path, monkeypatch):
    plain = CFGAN.generator_loss

    def loss(self, rows):
        assert not any(parameter.requires_grad for parameter in self.discriminator.parameters())
        assert all(parameter.requires_grad for parameter in self.generator.parameters())
        return plain(self, rows)

    def after(self):
        assert all(parameter.requires_grad for parameter in self.parameters())
        return {"asked": 1}

    monkeypatch.setattr(CFGAN, "generator_loss", loss)
    monkeypatch.setattr(CFGAN, "diagnostics", after, raising=False)
    record = run_recbole_diffusion("CFGAN", "checkerboard", None, TINY | {"epochs": 1} | checkerboard(tmp_path))
    assert record["diagnostics"] == {"asked": 1}


def test_stock_recbole_finds_the_trainer_and_saves_every_optimiser(tmp_path):
    small = {"embedding_size": 4, "pretrain_epochs": 1, "epochs": 3, "eval_step": 1}
    result = run_recbole(model="IRGAN", dataset="checkerboard", config_dict=QUIET | small | checkerboard(tmp_path))
    assert result["test_result"]["recall@10"] >= 0
    stored = torch.load(next(Path("saved").glob("IRGAN-*.pth")), weights_only=True)
    assert set(stored["optimizers"]) == {f"{name}_optimizer" for name in ("generator", "discriminator", "pretraining")}
