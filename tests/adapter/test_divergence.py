"""A training with one optimiser whose loss is no number any more."""

import math
import re
from pathlib import Path

import pytest

from recbole_diffusion import load_data_and_model, run_recbole_diffusion
from recbole_diffusion.cli import main
from recbole_diffusion.model.general_recommender.diffrec import DiffRec
from recbole_diffusion.settings import NonFiniteLossError
from toy import QUIET, checkerboard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_it_ends_with_epoch_and_batch_and_loses_nothing(bad, tmp_path, monkeypatch):
    """40 users in batches of 16 are 3 batches; the 8th in all is the 2nd of epoch 2."""
    calls, plain = [], DiffRec.calculate_loss

    def loss(self, interaction):
        calls.append(len(interaction))
        return plain(self, interaction) * (bad if len(calls) == 8 else 1)

    monkeypatch.setattr(DiffRec, "calculate_loss", loss)
    settings = QUIET | {"train_batch_size": 16, "epochs": 9} | checkerboard(tmp_path)
    with pytest.raises(NonFiniteLossError) as error:
        run_recbole_diffusion("DiffRec", "checkerboard", None, settings)
    assert f"DiffRec: training loss is {bad} in epoch 2, batch 1; the best epoch so far is in saved" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(calls) == 8
    _, model, *_ = load_data_and_model(next(Path("saved").glob("DiffRec-*.pth")))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("model", ["DiffRec", "BPR"])
def test_it_is_one_line_on_the_command_line(model, tmp_path, capsys):
    data = [f"--{key}={value}" for key, value in (QUIET | checkerboard(tmp_path)).items()]
    assert main(["run", f"--model={model}", "--dataset=checkerboard", "--learning_rate=1e30", *data]) == 1
    assert re.fullmatch(rf"error: {model}: training loss is (nan|inf) in epoch \d+, batch \d+\S*.*\n", capsys.readouterr().err)
