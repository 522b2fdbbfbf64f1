"""The process against a second derivation: composed steps, Gaussian conditioning, integration on a grid."""

import copy
import math

import pytest
import torch
from torch import nn

from recbole_diffusion.diffusion import PREDICTIONS, GaussianDiffusion, make_betas

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def batch(process, rng, width=3):
    """x_0 and eps for each t of the process, one row each."""
    t = torch.arange(process.n_steps)
    x_0, eps = (torch.randn(process.n_steps, width, generator=rng, dtype=torch.float64) for _ in range(2))
    return x_0, eps, t


def step_coefs(process, t):
    """(signal factor, noise standard deviation) of the forward step t, read off by applying it."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    at = torch.tensor([t])
    return float(process.q_step(one, at, zero)), float(process.q_step(zero, at, one))


def test_composed_steps_are_the_marginal(process):
    mean, var = 1.0, 0.0
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for t in range(process.n_steps):
        a, s = step_coefs(process, t)
        mean, var = a * mean, a * a * var + s * s
        at = torch.tensor([t])
        assert float(process.q_sample(one, at, zero)) == pytest.approx(mean, rel=1e-9)
        assert float(process.q_sample(zero, at, one)) ** 2 == pytest.approx(var, rel=1e-9)


def test_posterior_is_gaussian_conditioning(process, rng):
    """(x_{t-1}, x_t) given x_0 is jointly Gaussian; condition it on x_t."""
    x_0, eps, t = batch(process, rng)
    x_t = process.q_sample(x_0, t, eps)
    mean, var = process.posterior(x_0, x_t, t)
    for i in range(process.n_steps):
        prior_mean, prior_var = x_0[i], 0.0
        for s in range(i):
            a, std = step_coefs(process, s)
            prior_mean, prior_var = a * prior_mean, a * a * prior_var + std**2
        a, std = step_coefs(process, i)
        gain = a * prior_var / (a * a * prior_var + std**2)
        torch.testing.assert_close(mean[i], prior_mean + gain * (x_t[i] - a * prior_mean), **TIGHT)
        assert float(var[i]) == pytest.approx((1 - gain * a) * prior_var, rel=1e-9)


def test_posterior_is_bayes_on_a_grid():
    """q(x_{t-1} | x_t, x_0) proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0), integrated numerically."""
    process = GaussianDiffusion(make_betas("linear", 6, 0.05, 0.4))
    x_0, x_t = 0.7, -0.4
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    for i in range(1, 6):
        a, std = step_coefs(process, i)
        abar = float(process.alphas_cumprod[i - 1])
        log_density = -((x_t - a * grid) ** 2) / (2 * std**2) - (grid - math.sqrt(abar) * x_0) ** 2 / (2 * (1 - abar))
        weight = torch.softmax(log_density, 0)
        expected_mean = (weight * grid).sum()
        expected_var = (weight * (grid - expected_mean) ** 2).sum()
        column = torch.tensor([[1.0]], dtype=torch.float64)
        mean, var = process.posterior(x_0 * column, x_t * column, torch.tensor([i]))
        assert float(mean) == pytest.approx(float(expected_mean), rel=1e-9)
        assert float(var) == pytest.approx(float(expected_var), rel=1e-9)


def test_first_step_returns_x0_exactly(rng):
    """To the last bit, whatever beta_1: a reverse chain ends with the denoiser's own x0_hat."""
    x_0, x_t = (torch.randn(4, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    for beta_1 in torch.rand(50, generator=rng, dtype=torch.float64).square().tolist():
        process = GaussianDiffusion(torch.tensor([beta_1, 0.5]))
        mean, var = process.posterior(x_0, x_t, torch.zeros(4, dtype=torch.long))
        assert torch.equal(mean, x_0)
        assert torch.equal(var, torch.zeros(4, 1, dtype=torch.float64))


def test_conversions_undo_q_sample(process, rng):
    x_0, eps, t = batch(process, rng)
    x_t = process.q_sample(x_0, t, eps)
    v = process.v_from_x0_eps(x_0, t, eps)
    # abar_T may be 1e-7: the division by its root costs those digits.
    loose = {"rtol": 1e-7, "atol": 1e-8}
    torch.testing.assert_close(process.x0_from_eps(x_t, t, eps), x_0, **loose)
    torch.testing.assert_close(process.eps_from_x0(x_t, t, x_0), eps, **loose)
    torch.testing.assert_close(process.x0_from_v(x_t, t, v), x_0, **TIGHT)
    # v is x_t's derivative along the angle whose cosine is sqrt(abar) (Salimans & Ho 2022).
    angle = torch.acos(process.alphas_cumprod.sqrt())[:, None]
    torch.testing.assert_close(v, -torch.sin(angle) * x_0 + torch.cos(angle) * eps, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_denoiser_recovers_x0_from_a_perfect_network(process, rng, prediction):
    x_0, eps, t = batch(process, rng)
    x_t = process.q_sample(x_0, t, eps)
    output = {"x0": x_0, "eps": eps, "v": process.v_from_x0_eps(x_0, t, eps)}[prediction]
    denoise = process.denoiser(lambda x, at: output, prediction)
    torch.testing.assert_close(denoise(x_t, t), x_0, rtol=1e-7, atol=1e-8)
    p, q = process.prediction_coefs(prediction)
    torch.testing.assert_close(p[:, None] * x_t + q[:, None] * output, x_0, rtol=1e-7, atol=1e-8)


def test_snr(process):
    t = torch.arange(-1, process.n_steps)
    snr = process.snr(t)
    assert float(snr[0]) == math.inf
    mean, var = 1.0, 0.0
    for i in range(process.n_steps):
        a, s = step_coefs(process, i)
        mean, var = a * mean, a * a * var + s * s
        assert float(snr[i + 1]) == pytest.approx(mean**2 / var, rel=1e-9)


def test_batches_of_any_shape(rng):
    process = GaussianDiffusion(make_betas("cosine", 9))
    x_0, eps = (torch.randn(5, 2, 3, generator=rng) for _ in range(2))
    t = torch.tensor([0, 3, 8, 8, 1])
    x_t = process.q_sample(x_0, t, eps)
    mean, var = process.posterior(x_0, x_t, t)
    assert mean.shape == x_0.shape
    assert var.shape == (5, 1, 1)
    for i in range(5):
        assert torch.equal(process.q_sample(x_0[i : i + 1], t[i : i + 1], eps[i : i + 1]), x_t[i : i + 1])


def test_a_noise_level_of_its_own_at_each_position(rng):
    """[B, L, d] with t [B, L] is B L rows with a t each."""
    process = GaussianDiffusion(make_betas("cosine", 9))
    x_0, eps = (torch.randn(3, 3, 4, generator=rng) for _ in range(2))  # B = L, which a wrong broadcast survives
    t = torch.randint(9, (3, 3), generator=rng)
    flat = x_0.flatten(0, 1), t.flatten(), eps.flatten(0, 1)
    x_t = process.q_sample(x_0, t, eps)
    assert torch.equal(x_t.flatten(0, 1), process.q_sample(*flat))
    mean, var = process.posterior(x_0, x_t, t)
    expected = process.posterior(flat[0], x_t.flatten(0, 1), flat[1])
    assert torch.equal(mean.flatten(0, 1), expected[0]) and torch.equal(var.flatten(0, 1), expected[1])
    v = process.v_from_x0_eps(x_0, t, eps)
    torch.testing.assert_close(process.denoiser(lambda x, at: v, "v")(x_t, t), x_0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.float, lambda m: m.to(torch.bfloat16)])
def test_tables_keep_their_precision(convert):
    parent = nn.Module()
    parent.process, parent.layer = GaussianDiffusion(make_betas("linear-var", 40, first_beta=1e-5)), nn.Linear(2, 2)
    before = copy.deepcopy(parent.process)
    convert(parent)
    for name, table in parent.process.named_buffers():
        assert table.dtype == torch.float64
        assert torch.equal(table, dict(before.named_buffers())[name])
    assert parent.state_dict().keys() == nn.ModuleDict({"layer": nn.Linear(2, 2)}).state_dict().keys()
    x = torch.zeros(1, 2, dtype=torch.bfloat16)
    assert parent.process.q_sample(x, torch.tensor([3]), x).dtype == torch.bfloat16


def test_tables_follow_the_device():
    process = GaussianDiffusion(make_betas("linear", 3)).to("meta")
    assert all(table.is_meta and table.dtype == torch.float64 for table in process.buffers())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"beta_2=1\.0"):
        GaussianDiffusion(torch.tensor([0.1, 1.0]))
    with pytest.raises(ValueError, match="shape"):
        GaussianDiffusion(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="'epsilon'"):
        GaussianDiffusion(torch.tensor([0.1])).denoiser(lambda x, t: x, "epsilon")
