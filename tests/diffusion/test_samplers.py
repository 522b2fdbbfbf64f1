"""Samplers against other forms of the same steps, and against a Gaussian whose flow is known."""

import math
from itertools import pairwise

import pytest
import torch

from recbole_diffusion.diffusion import (
    SAMPLERS,
    GaussianDiffusion,
    ancestral,
    ddim,
    dpmpp_2m,
    keyed_noise,
    make_betas,
    stream_noise,
    time_grid,
    zero_noise,
)
from recbole_diffusion.diffusion.samplers import SPACINGS


def network(x, t):
    """Some smooth function of both arguments, row by row."""
    return torch.tanh(0.7 * x + 0.1 * t[:, None].to(x.dtype)) - 0.3 * x.flip(1)


def start(rng, rows=4):
    return torch.randn(rows, 3, generator=rng, dtype=torch.float64)


# --- grids ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_descend_through_distinct_times_to_clean_data(process, spacing):
    total = process.n_steps
    for n in range(1, total + 1):
        grid = time_grid(process, n, spacing)
        starts = [t for t, _ in grid]
        assert len(grid) == n
        assert starts[0] == total - 1
        assert sorted(set(starts), reverse=True) == starts
        assert [s for _, s in grid] == [*starts[1:], -1]
        assert n == 1 or starts[-1] == 0
    assert time_grid(process, None, spacing) == [(t, t - 1) for t in reversed(range(total))]


def test_grids_are_spaced_as_named():
    process = GaussianDiffusion(make_betas("linear", 1000))
    starts = {name: torch.tensor([t for t, _ in time_grid(process, 9, name)], dtype=torch.float64) for name in SPACINGS}
    torch.testing.assert_close(starts["uniform"].flip(0), torch.arange(9).double() * 999 / 8, rtol=0, atol=0.5)
    torch.testing.assert_close(starts["quadratic"].flip(0), (torch.arange(9).double() / 8) ** 2 * 999, rtol=0, atol=0.5)
    gaps = torch.log(process.snr(starts["log-snr"].long())).diff()
    # Whole times are coarse at the clean end.
    torch.testing.assert_close(gaps, gaps.mean().expand(8), rtol=0.12, atol=0)


@pytest.mark.parametrize(
    ("arguments", "named"), [((0,), "n_steps=0"), ((13,), r"n_steps=13.*\[1, 12\]"), ((3, "karras"), "'karras'")]
)
def test_bad_grid_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        time_grid(GaussianDiffusion(make_betas("linear", 12)), *arguments)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("grid", [[], [(5, 4)], [(2, 1), (0, -1)], [(1, 2), (2, -1)], [(12, 11), (11, -1)], [(-1, -1)]])
def test_what_is_no_reverse_pass_is_refused(sampler, grid, rng):
    process = GaussianDiffusion(make_betas("linear", 12))
    with pytest.raises(ValueError, match="grid"):
        sampler(network, start(rng), process, grid)


# --- ancestral -----------------------------------------------------------------------------------------------------


def test_ancestral_is_algorithm_2_of_ddpm(process, rng):
    """Ho et al. 2020 write the step in eps: x := (x - beta/sqrt(1 - abar) eps) / sqrt(alpha) + sigma z."""
    x = x_T = start(rng)
    noise = keyed_noise(torch.arange(4), 5)
    beta, alpha, abar = process.betas.tolist(), process.alphas.tolist(), process.alphas_cumprod.tolist()
    for k, t in enumerate(reversed(range(process.n_steps))):
        eps = network(x, torch.full((4,), t))
        x = (x - beta[t] / math.sqrt(1 - abar[t]) * eps) / math.sqrt(alpha[t])
        if t > 0:
            x = x + math.sqrt((1 - abar[t - 1]) / (1 - abar[t]) * beta[t]) * noise(x, k + 1)
    result = ancestral(process.denoiser(network, "eps"), x_T, process, time_grid(process), noise=noise)
    torch.testing.assert_close(result, x, rtol=1e-6, atol=1e-8)


def test_ancestral_without_noise_is_diffrec_algorithm_2(process, rng):
    x = x_T = start(rng)
    for t in reversed(range(process.n_steps)):
        at = torch.full((4,), t)
        x = process.posterior_mean(network(x, at), x, at)
    assert torch.equal(ancestral(network, x_T, process, time_grid(process)), x)
    assert torch.equal(ancestral(network, x_T, process, time_grid(process), noise=zero_noise), x)


def test_ancestral_may_start_below_T_but_not_skip(rng):
    process = GaussianDiffusion(make_betas("linear", 12))
    x = start(rng)
    later = ancestral(network, x, process, [(2, 1), (1, 0), (0, -1)])
    cut = GaussianDiffusion(process.betas[:3])
    torch.testing.assert_close(later, ancestral(network, x, cut, time_grid(cut)))
    with pytest.raises(ValueError, match="from 11 to 6"):
        ancestral(network, x, process, time_grid(process, 3))


@pytest.mark.parametrize("sampler", [ancestral, lambda *args, **more: ddim(*args, **more, eta=1.0)])
def test_draws_are_numbered_from_one_and_none_is_made_for_the_last_step(process, sampler, rng):
    drawn = []

    def noise(x, i):
        drawn.append(i)
        return torch.zeros_like(x)

    sampler(network, start(rng), process, time_grid(process), noise=noise)
    assert drawn == list(range(1, process.n_steps))


# --- ddim ----------------------------------------------------------------------------------------------------------


def test_ddim_with_eta_1_and_every_step_is_ancestral(process, rng):
    """Not in distribution only: the same noise gives the same path."""
    x, grid = start(rng), time_grid(process)
    results = [
        sampler(network, x, process, grid, noise=keyed_noise(torch.arange(4), 1), **more)
        for sampler, more in [(ancestral, {}), (ddim, {"eta": 1.0})]
    ]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_without_noise_is_dpmpp_of_first_order(process, spacing, rng):
    for n in range(1, process.n_steps + 1):
        grid = time_grid(process, n, spacing)
        x = x_T = start(rng)
        for t, s in grid:
            x0_hat = network(x, torch.full((4,), t))
            if s < 0:
                x = x0_hat
                continue
            abar_t, abar_s = float(process.alphas_cumprod[t]), float(process.alphas_cumprod[s])
            h = 0.5 * (math.log(abar_s / (1 - abar_s)) - math.log(abar_t / (1 - abar_t)))
            x = math.sqrt((1 - abar_s) / (1 - abar_t)) * x - math.sqrt(abar_s) * math.expm1(-h) * x0_hat
        torch.testing.assert_close(ddim(network, x_T, process, grid), x, rtol=1e-7, atol=1e-9)
        if n <= 2:  # the first and the last step of the multistep method are first-order
            torch.testing.assert_close(dpmpp_2m(network, x_T, process, grid), x, rtol=1e-7, atol=1e-9)


def test_ddim_keeps_the_marginals_for_any_eta(rng):
    """With E[x_0 | x_t] replaced by the true x_0, x_s must have the marginal's law whatever eta (DDIM, Lemma 1)."""
    process, n, x_0 = GaussianDiffusion(make_betas("linear", 20, 0.02, 0.3)), 40_000, 0.7
    x_T = process.q_sample(
        torch.full((n, 1), x_0, dtype=torch.float64),
        torch.full((n,), 19),
        torch.randn(n, 1, generator=rng, dtype=torch.float64),
    )
    for eta in (0.0, 0.5, 1.0):
        seen = {}

        def oracle(x, t, seen=seen):
            seen[int(t[0])] = x
            return torch.full_like(x, x_0)

        ddim(oracle, x_T, process, time_grid(process, 5), eta=eta, noise=stream_noise(rng))
        for t, x in seen.items():
            abar = float(process.alphas_cumprod[t])
            assert abs(float(x.mean()) - abar**0.5 * x_0) < 4.5 * ((1 - abar) / n) ** 0.5
            assert float(x.var()) == pytest.approx(1 - abar, rel=4.5 * (2 / n) ** 0.5)


def test_eta_outside_its_range_is_named(rng):
    process = GaussianDiffusion(make_betas("linear", 12, 0.05, 0.3))
    for eta in (-0.1, math.nan, math.inf, 5.0):
        with pytest.raises(ValueError, match=f"eta={eta}"):
            ddim(network, start(rng), process, time_grid(process, 4), eta=eta)
    # Above 1 while the variance at s allows it.
    ddim(network, start(rng), process, time_grid(process), eta=1.05, noise=stream_noise(rng))


# --- order ---------------------------------------------------------------------------------------------------------


def errors_on_a_gaussian(sampler, step_counts, spacing="log-snr"):
    """Largest error against the exact probability flow of N(mu, s^2), for each number of steps.

    The flow keeps standardised x: (x_t - sqrt(abar_t) mu) / sqrt(abar_t s^2 + 1 - abar_t). The last step to clean data
    is x0_hat for every sampler, so the flow is compared at t = 0, through the same x0_hat.
    """
    process, mu, s = GaussianDiffusion(make_betas("exp", 4000)), 0.6, 0.5
    abar = process.alphas_cumprod

    def denoise(x, t):
        a = abar[t][:, None]
        return mu + s**2 * a.sqrt() / (a * s**2 + 1 - a) * (x - a.sqrt() * mu)

    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    spread = (abar * s**2 + 1 - abar).sqrt()
    at_0 = abar[0].sqrt() * mu + spread[0] / spread[-1] * (x_T - abar[-1].sqrt() * mu)
    exact = denoise(at_0, torch.zeros(5, dtype=torch.long))
    return [
        float((sampler(denoise, x_T, process, time_grid(process, n, spacing)) - exact).abs().max()) for n in step_counts
    ]


@pytest.mark.parametrize("spacing", ["log-snr", "quadratic"])  # equal steps in log SNR, and unequal ones
@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp_2m, 2)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(sampler, order, spacing):
    errors = errors_on_a_gaussian(sampler, [41, 81, 161, 321], spacing)
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_second_order_is_worth_it():
    (first,), (second,) = errors_on_a_gaussian(ddim, [20]), errors_on_a_gaussian(dpmpp_2m, [20])
    assert second < first / 5


# --- batches and types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_its_batch(sampler, dtype, process, rng):
    x, keys, grid = start(rng, 6).to(dtype), torch.arange(6) * 17, time_grid(process)
    whole = sampler(network, x, process, grid, noise=keyed_noise(keys, 3))
    assert whole.dtype == dtype
    rows = [sampler(network, x[i : i + 1], process, grid, noise=keyed_noise(keys[i : i + 1], 3)) for i in range(6)]
    assert torch.equal(whole, torch.cat(rows))
    assert torch.equal(whole, sampler(network, x, process, grid, noise=keyed_noise(keys, 3)))


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_the_start_is_left_alone(sampler, rng):
    process = GaussianDiffusion(make_betas("cosine", 5))
    x = start(rng)
    before = x.clone()
    sampler(network, x, process, time_grid(process), noise=stream_noise(rng))
    assert torch.equal(x, before)
