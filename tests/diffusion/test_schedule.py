"""Schedules against their papers' formulas, written down a second time."""

import math

import pytest
import torch

from recbole_diffusion.diffusion import SCHEDULES, make_betas
from recbole_diffusion.diffusion.schedule import MAX_BETA

STEPS = [1, 2, 5, 40, 200, 1000, 2000]


def abar(betas):
    return torch.cumprod(1 - betas, 0)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_valid_at_every_length(name, steps):
    betas = make_betas(name, steps)
    assert betas.shape == (steps,)
    assert betas.dtype == torch.float64
    assert ((betas > 0) & (betas < 1)).all()
    assert (abar(betas).diff() < 0).all()


@pytest.mark.parametrize("steps", STEPS)
def test_linear(steps):
    betas = make_betas("linear", steps, 1e-3, 0.5)
    for i in range(steps):
        expected = 1e-3 if steps == 1 else 1e-3 + (0.5 - 1e-3) * i / (steps - 1)
        assert float(betas[i]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", STEPS)
def test_linear_var_has_the_variances_of_diffrec(steps):
    s, low, high = 0.005, 0.005, 0.01
    betas = make_betas("linear-var", steps, s * low, s * high)
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    variance = s * (low + (t - 1) / max(steps - 1, 1) * (high - low))
    torch.testing.assert_close(1 - abar(betas), variance, rtol=1e-9, atol=0)


def test_trunc_linear_is_diffurec_s():
    """.0131 to .635 at T = 32; signal left after one step .987, after all 9.9e-7 (the published settings)."""
    betas = make_betas("trunc-linear", 32)
    assert float(betas[0]) == pytest.approx(0.0131, abs=5e-5) and float(betas[-1]) == pytest.approx(0.635)
    assert (betas.diff() - betas.diff()[0]).abs().max() < 1e-12
    assert float(abar(betas)[0]) == pytest.approx(0.987, abs=5e-4) and float(abar(betas)[-1]) == pytest.approx(9.9e-7, rel=0.01)
    assert float(make_betas("trunc-linear", 4)[-1]) == pytest.approx(0.001 * 250 + 0.01)  # .02 * 250 would be above 1


def f_cosine(t, steps):
    return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2


@pytest.mark.parametrize("steps", STEPS)
def test_cosine_iddpm_has_the_marginals_of_nichol_and_dhariwal(steps):
    result = abar(make_betas("cosine-iddpm", steps))
    clipped = [1 - f_cosine(t, steps) / f_cosine(t - 1, steps) > MAX_BETA for t in range(1, steps + 1)]
    assert clipped.index(True) == steps - 1  # the very last step only
    for t in range(1, steps):
        assert float(result[t - 1]) == pytest.approx(f_cosine(t, steps) / f_cosine(0, steps), rel=1e-9)
    assert float(make_betas("cosine-iddpm", steps)[-1]) == MAX_BETA


@pytest.mark.parametrize("steps", STEPS)
def test_cosine_is_dreamrec_s(steps):
    """Betas of the cosine schedule, each within [1e-4, .9999]."""
    betas = make_betas("cosine", steps).tolist()
    exact = [1 - f_cosine(t, steps) / f_cosine(t - 1, steps) for t in range(1, steps + 1)]
    assert betas == pytest.approx([min(max(beta, 1e-4), 0.9999) for beta in exact], rel=1e-9)
    assert betas[-1] == 0.9999
    # beta_t ~ -d log f = 2 tan(a) da at the step's middle, a = (t - 1/2 + .008 T) da, da = pi / (2 * 1.008 T), tan(a) ~ a.
    da = math.pi / (2 * 1.008 * steps)
    assert betas.count(1e-4) == max(0, math.floor(1e-4 / (2 * da**2) - 0.008 * steps + 0.5))


@pytest.mark.parametrize("steps", STEPS)
def test_binomial_erases_an_equal_share_each_step(steps):
    result = abar(make_betas("binomial", steps))
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    torch.testing.assert_close(result[:-1], (1 - t / steps)[:-1], rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", STEPS)
def test_exp_is_the_vp_sde_on_dreamrec_s_grid(steps):
    # The rate .1 + 9.9 u over a step of length 1/T around u = y / (2T), y from 1 to 2T + 1 in T equal steps.
    for i, beta in enumerate(make_betas("exp", steps).tolist()):
        y = 1 + (2 * steps * i / (steps - 1) if steps > 1 else 0)
        assert beta == pytest.approx(1 - math.exp(-(0.1 + 9.9 * y / (2 * steps)) / steps), rel=1e-9)


def test_exp_converges_to_the_vp_sde():
    # abar(u) = exp(-integral of .1 + 9.9 u' over [0, u]).
    u = torch.arange(1, 20001, dtype=torch.float64) / 20000
    torch.testing.assert_close(abar(make_betas("exp", 20000)), torch.exp(-0.1 * u - 9.9 * u**2 / 2), rtol=5e-4, atol=0)


@pytest.mark.parametrize("steps", STEPS)
def test_sqrt_is_dreamrec_s(steps):
    """1 - sqrt(t/T + s) over its value at 0, which is 1 - .01: the marginals of Diffusion-LM's paper over .99."""
    u = torch.arange(1, steps, dtype=torch.float64) / steps
    betas = make_betas("sqrt", steps)
    torch.testing.assert_close(abar(betas)[:-1], (1 - torch.sqrt(u + 1e-4)) / 0.99, rtol=1e-9, atol=0)
    assert float(betas[-1]) == MAX_BETA


def test_first_beta_replaces_the_first_beta_only():
    plain, fixed = make_betas("linear-var", 5, 0.01, 0.02), make_betas("linear-var", 5, 0.01, 0.02, first_beta=1e-5)
    assert float(fixed[0]) == 1e-5
    assert torch.equal(plain[1:], fixed[1:])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("lnear", 5), ["lnear", "linear-var"]),
        (("linear", 0), ["steps=0"]),
        (("linear", 2.5), ["steps=2.5"]),
        (("linear", 5, 0.0, 0.1), ["'linear'", "start=0.0", "(0, 1)"]),
        (("linear", 5, 0.1, 1.0), ["'linear'", "end=1.0", "(0, 1)"]),
        (("linear", 5, float("nan"), 0.1), ["start=nan"]),
        (("linear-var", 5, 0.5, 0.1), ["'linear-var'", "start=0.5", "end=0.1"]),
        (("linear-var", 5, 0.1, 0.1), ["'linear-var'", "start=0.1"]),
        (("linear", 5, 0.1, 0.2, 1.5), ["'linear'", "beta_1=1.5", "(0, 1)"]),
        (("cosine", 5, None, None, 0.0), ["'cosine'", "beta_1=0.0", "(0, 1)"]),
    ],
)
def test_values_outside_their_range_are_named(arguments, named):
    with pytest.raises(ValueError) as error:
        make_betas(*arguments)
    for part in named:
        assert part in str(error.value)
