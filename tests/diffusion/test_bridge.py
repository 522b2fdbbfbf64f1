"""The Brownian bridge against a Wiener process that is conditioned on its end."""

import math

import pytest
import torch

from recbole_diffusion.diffusion import BrownianBridge, bridge_levels, keyed_noise, stepwise, time_grid

TIGHT = {"rtol": 1e-9, "atol": 1e-12}
BRIDGES = {
    "BBDRec": lambda: BrownianBridge(bridge_levels(32), variance=8.0),
    "to-the-end": lambda: BrownianBridge(torch.tensor([0.1, 0.35, 0.8, 1.0], dtype=torch.float64), variance=0.7),
    "one-step": lambda: BrownianBridge(torch.tensor([0.6], dtype=torch.float64)),
    "straight": lambda: BrownianBridge(bridge_levels(5), variance=0.0),
}


@pytest.fixture(params=BRIDGES)
def bridge(request):
    return BRIDGES[request.param]()


def three(rng, rows, width=3):
    return (torch.randn(rows, width, generator=rng, dtype=torch.float64) for _ in range(3))


def wiener(bridge, t, s):
    """Mean and covariance of (x_s, x_t) given x_0 = 0 and end = 1, from a Wiener process conditioned on its value at 1.

    W(b) = sqrt(m) times a Wiener process with drift: cov(W(b), W(c)) = m min(b, c). Conditioning on W(1) = 1 is the bridge.
    """
    b = torch.stack([bridge.levels[s] if s >= 0 else bridge.levels.new_zeros(()), bridge.levels[t]])
    prior = torch.minimum(b[:, None], b[None, :])
    with_end = b  # covariance with W(1), whose variance is 1; all of them times m
    return with_end, bridge.variance * (prior - torch.outer(with_end, with_end))


def test_marginals_are_a_conditioned_wiener_process(bridge):
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for t in range(bridge.n_steps):
        at = torch.tensor([t])
        mean, cov = wiener(bridge, t, t - 1)
        assert float(bridge.q_sample(zero, at, zero, one)) == pytest.approx(float(mean[1]), rel=1e-9)
        assert float(bridge.q_sample(one, at, zero, zero)) == pytest.approx(1 - float(mean[1]), rel=1e-9, abs=1e-15)
        assert float(bridge.q_sample(zero, at, one, zero)) ** 2 == pytest.approx(float(cov[1, 1]), rel=1e-9, abs=1e-15)


def test_posterior_is_gaussian_conditioning(bridge, rng):
    """(x_{t-1}, x_t) given x_0 and the end point is jointly Gaussian; condition it on x_t."""
    x_0, x_t, end = three(rng, bridge.n_steps)
    mean, var = bridge.posterior(x_0, x_t, torch.arange(bridge.n_steps))
    for t in range(bridge.n_steps):
        weight, cov = wiener(bridge, t, t - 1)
        means = x_0[t] + weight[:, None] * (end[t] - x_0[t])
        if cov[1, 1] > 0:
            gain = cov[0, 1] / cov[1, 1]
            torch.testing.assert_close(mean[t], means[0] + gain * (x_t[t] - means[1]), **TIGHT)
            assert float(var[t]) == pytest.approx(float(cov[0, 0] - gain * cov[0, 1]), rel=1e-9, abs=1e-15)
        else:  # at b = 1, or without variance, x_t is known beforehand, and to know it changes nothing
            assert float(var[t]) == pytest.approx(float(cov[0, 0]), rel=1e-9, abs=1e-15)


def test_posterior_is_bayes_on_a_grid():
    """q(x_{t-1} | x_t, x_0, end) is proportional to q(x_t | x_{t-1}, end) q(x_{t-1} | x_0, end), for any end point."""
    bridge = BrownianBridge(torch.tensor([0.2, 0.45, 0.7, 0.9], dtype=torch.float64), variance=2.0)
    x_0, x_t = torch.tensor([[0.7]]).double(), torch.tensor([[-0.4]]).double()
    grid = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    for end in (-1.5, 0.0, 3.0):
        for t in range(1, 4):
            b, c = float(bridge.levels[t - 1]), float(bridge.levels[t])
            # From b to the end at 1 the process is itself a bridge, of length 1 - b.
            share = (c - b) / (1 - b)
            step_var = 2.0 * (1 - b) * share * (1 - share)
            log_density = -((float(x_t) - grid - share * (end - grid)) ** 2) / (2 * step_var)
            log_density -= (grid - (1 - b) * float(x_0) - b * end) ** 2 / (2 * 2.0 * b * (1 - b))
            weight = torch.softmax(log_density, 0)
            expected = (weight * grid).sum()
            mean, var = bridge.posterior(x_0, x_t, torch.tensor([t]))
            assert float(mean) == pytest.approx(float(expected), rel=1e-9)
            assert float(var) == pytest.approx(float((weight * (grid - expected) ** 2).sum()), rel=1e-9)


def test_the_end_point_s_weight_in_bbdm_s_posterior_is_zero(bridge):
    """The bracket that BBDRec's code computes and does not use, written as there."""
    b, before = bridge.levels, torch.cat([bridge.levels.new_zeros(1), bridge.levels[:-1]])
    delta, delta_before = b * (1 - b), before * (1 - before)
    inner = delta > 0  # at b = 1 it is 0/0
    bracket = before - b * (1 - b) / (1 - before) * delta_before / delta
    torch.testing.assert_close(bracket[inner], torch.zeros_like(bracket[inner]), rtol=0, atol=1e-15)


def test_steps_are_draws_of_the_posterior(bridge, rng):
    x_0, x_t, z = three(rng, 2)
    for t in range(bridge.n_steps):
        mean, var = bridge.posterior(x_0, x_t, torch.full((2,), t))
        torch.testing.assert_close(bridge.step(x_0, x_t, t, t - 1), mean, **TIGHT)
        torch.testing.assert_close(bridge.step(x_0, x_t, t, t - 1, z), mean + var.sqrt() * z, **TIGHT)


def test_steps_that_skip_compose():
    """From t to s by way of every u: the same mean and variance as at one go."""
    bridge = BRIDGES["BBDRec"]()
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    t, s = 25, 3
    keep, var = 1.0, 0.0
    for u in range(t, s, -1):
        ratio = float(bridge.step(zero, one, u, u - 1))
        keep, var = ratio * keep, ratio**2 * var + float(bridge.step(zero, zero, u, u - 1, one)) ** 2
    assert float(bridge.step(zero, one, t, s)) == pytest.approx(keep, rel=1e-9)
    assert float(bridge.step(zero, zero, t, s, one)) ** 2 == pytest.approx(var, rel=1e-9)


def test_a_perfect_denoiser_leads_back(bridge, rng):
    x_0, end, _ = three(rng, 4)
    noise = keyed_noise(torch.arange(4), seed=3)
    for steps in range(1, bridge.n_steps + 1):
        x = stepwise(lambda x, t: x_0, bridge.prior(end), bridge, time_grid(bridge, steps), noise=noise)
        assert torch.equal(x, x_0)


def test_the_reverse_pass_draws_the_marginal():
    """From x_T down to t with the true x_0: mean and variance of q(x_t | x_0, end), by Monte Carlo over a wide row."""
    bridge = BrownianBridge(bridge_levels(10), variance=1.5)
    x_0, end = torch.full((1, 200_000), 0.5), torch.full((1, 200_000), -1.0)
    noise = keyed_noise(torch.tensor([0]), seed=1)
    x = bridge.q_sample(x_0, torch.tensor([9]), noise(x_0, 0), end)
    for t in range(9, 4, -1):
        x = bridge.step(x_0, x, t, t - 1, noise(x, t))
    b = float(bridge.levels[4])
    var = 1.5 * b * (1 - b)
    assert float(x.mean()) == pytest.approx(0.5 * (1 - b) - b, abs=5 * math.sqrt(var / 200_000))
    assert float(x.var()) == pytest.approx(var, rel=5 * math.sqrt(2 / 200_000))


def test_a_level_of_its_own_at_each_position(rng):
    bridge = BRIDGES["BBDRec"]()
    x_0, eps, end = (torch.randn(2, 3, 4, generator=rng) for _ in range(3))
    t = torch.tensor([[0, 5, 31], [7, 7, 2]])
    x_t = bridge.q_sample(x_0, t, eps, end)
    mean, var = bridge.posterior(x_0, x_t, t)
    assert var.shape == (2, 3, 1)
    for i in range(2):
        for j in range(3):
            own = x_0[i, j : j + 1], t[i, j : j + 1]
            torch.testing.assert_close(bridge.q_sample(*own, eps[i, j : j + 1], end[i, j : j + 1])[0], x_t[i, j])
            torch.testing.assert_close(bridge.posterior(own[0], x_t[i, j : j + 1], own[1])[0][0], mean[i, j])


@pytest.mark.parametrize("steps", [1, 2, 32])
def test_the_noisiest_level_is_at_the_end_point_where_the_reverse_pass_starts(steps):
    levels = bridge_levels(steps)
    assert float(levels[-1]) == pytest.approx(1 - 1e-4) and len(levels) == steps
    torch.testing.assert_close(levels + levels.flip(0), torch.ones_like(levels) * float(levels[0] + levels[-1]))
    x_0, end = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    bridge = BrownianBridge(levels)
    x_t = bridge.q_sample(x_0, torch.tensor([steps - 1]), torch.zeros_like(x_0), end)
    torch.testing.assert_close(x_t, bridge.prior(end), rtol=0, atol=2e-4)


@pytest.mark.parametrize("levels", [[], [0.0, 0.5], [0.5, 0.5], [0.5, 0.4], [0.5, 1.1], [math.nan]])
def test_levels_that_do_not_rise_are_refused(levels):
    with pytest.raises(ValueError, match="levels must"):
        BrownianBridge(torch.tensor(levels))


def test_a_negative_variance_is_refused():
    with pytest.raises(ValueError, match=r"variance=-1\.0"):
        BrownianBridge(bridge_levels(3), variance=-1.0)
