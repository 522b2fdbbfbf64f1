"""Processes that the library's tests share. Everything runs in float64 unless a test says otherwise."""

import pytest
import torch

from recbole_diffusion.diffusion import SCHEDULES, GaussianDiffusion, make_betas

PROCESSES = {
    **{name: lambda name=name: make_betas(name, 12) for name in SCHEDULES},
    # DiffRec's own settings: the range in which float32 tables lose their precision.
    "diffrec": lambda: make_betas("linear-var", 40, 2.5e-5, 5e-5, first_beta=1e-5),
    "strong": lambda: make_betas("linear", 7, 0.05, 0.6),
    "one-step": lambda: make_betas("linear", 1, 0.3, 0.3),
}


@pytest.fixture(params=PROCESSES)
def process(request: pytest.FixtureRequest) -> GaussianDiffusion:
    """One process after another: each schedule, DiffRec's range, strong noise, a single step."""
    return GaussianDiffusion(PROCESSES[request.param]())


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20231)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same global stream for every test, whichever tests run before it."""
    torch.manual_seed(12)
