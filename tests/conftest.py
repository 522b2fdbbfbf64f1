"""Every test runs in an empty folder and without a command line: RecBole writes into the one and reads the other."""

import os
import sys
from pathlib import Path

import pytest
import torch

import recbole_diffusion  # noqa: F401  (before any test imports RecBole, which does not start without the repairs)

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    # Two test processes on two cores are faster than one that fights over them. Processes that a test starts get what it
    # has: with another number of threads a sum has other last digits.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
