"""What a run needs of the machine is asked for before the work."""

import os
from pathlib import Path

import pytest

from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.surroundings import check_surroundings
from recbole_diffusion.settings import SettingsError


def check(**settings):
    check_surroundings(build_config("BPR", "ml-100k", None, settings))


def test_folders_that_cannot_be_written_to(monkeypatch):
    check(checkpoint_dir="saved/here/and/there")
    Path("file").touch()
    for folder, message in (("file", "'file' is no folder"), ("file/x", "cannot be a folder|is no folder"),
                            ("/dev/null", "is no folder"), ("x" * 300, "cannot be a folder")):  # fmt: skip
        with pytest.raises(SettingsError, match=message):
            check(checkpoint_dir=folder)
    access = os.access  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "sealed" and access(path, mode))
    Path("sealed").mkdir()
    with pytest.raises(SettingsError, match="'sealed' is read-only"):
        check(checkpoint_dir="sealed/saved")
    assert not Path("saved").exists(), "checking made a folder"


def test_a_gpu_that_is_not_there(monkeypatch):
    check()  # RecBole's defaults ask for one, and take the CPU
    check(gpu_id="", use_gpu=False)
    for settings in ({"gpu_id": 99}, {"gpu_id": "98,99"}):
        with pytest.raises(SettingsError, match="gpu_id = .*no such GPU"):
            check(**settings)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingsError, match="use_gpu = True: this machine has no such GPU"):
        check(use_gpu=True)
