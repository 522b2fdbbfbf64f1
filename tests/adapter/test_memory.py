"""What cannot fit in memory is refused with its size, before it is allocated."""

import re
import resource

import pytest
import torch

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.memory import out_of_memory_is_one_line, within_memory
from recbole_diffusion.settings import SettingsError
from toy import QUIET, checkerboard, two_circles


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("DiffRec", {"dims_dnn": [1e9]}, r"building the model needs a tensor of .*149\.\d GiB.*dims_dnn = \[1000000000\]"),
        ("DreamRec", {"hidden_size": 2e9}, r"\[25, 2000000000\], 186.3 GiB; 8.0 GiB are free.*hidden_size = 2000000000"),
        ("DreamRec", {"n_samples": 1e8}, r"scoring a batch needs .*n_samples = 100000000"),
        ("DreamRec", {"steps": 2e9}, r"reading the settings needs .*14\.9 GiB.*steps = 2000000000"),
        ("SASRec", {"MAX_ITEM_LIST_LENGTH": 1e9, "protocol": "leave-one-out"}, "MAX_ITEM_LIST_LENGTH = 1000000000"),
        ("BPR", {"embedding_size": 1e9, "protocol": "ratio-80-10-10"}, "building the model .*embedding_size = 1000000000"),
        ("IRGAN", {"policy_samples": 1e9, "pretrain_epochs": 0}, "out of memory: .*policy_samples = 1000000000"),
    ],
)
def test_a_sum_that_cannot_fit_is_refused_with_its_size(model, settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 8 * 2**30}))
    name, data = ("circles", two_circles) if model in ("DreamRec", "SASRec") else ("checkerboard", checkerboard)
    with pytest.raises(SettingsError) as error:
        run_recbole_diffusion(model, name, None, QUIET | data(tmp_path) | {"epochs": 1} | settings)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20, "it has been allocated"


def test_watching_changes_nothing_and_sees_only_what_is_new(monkeypatch):
    config = build_config("BPR", "ml-100k")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 2**20 + 2**10}))
    with within_memory(config, "a test"):
        x = torch.ones(2**17)  # half a mebibyte
        view = x.expand(1000, 2**17)  # takes no memory
        assert view.shape == (1000, 2**17) and (x + 1).sum() == 2**18
        x.add_(1)
        with pytest.raises(SettingsError, match=r"a test needs a tensor of \[1000, 131072\], 500.0 MiB; 1.0 MiB are free"):
            view + 1
        with pytest.raises(SettingsError, match=r"\[600, 600\]"):
            torch.ones(600, 1) @ torch.ones(1, 600)


def test_an_allocation_that_failed_is_one_line():
    config = build_config("BPR", "ml-100k")
    with pytest.raises(SettingsError, match="out of memory: .*could not be allocated"), out_of_memory_is_one_line(config):
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="shapes cannot"), out_of_memory_is_one_line(config):
        torch.ones(2, 3) @ torch.ones(2, 3)
