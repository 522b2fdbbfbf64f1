"""DDPM's Algorithms 1 and 2 on a density that is known: a mixture of two Gaussians on a line.

Its score, and so E[x_0 | x_t], has a closed form: given component k, (x_0, x_t) is jointly Gaussian, and the
components' weights follow from Bayes' rule. Sampling with that denoiser must return the mixture.
"""

import pytest
import torch
from scipy import stats
from torch import nn

from recbole_diffusion.diffusion import (
    GaussianDiffusion,
    UniformTimesteps,
    ancestral,
    ddim,
    dpmpp_2m,
    make_betas,
    sinusoidal_embedding,
    stream_noise,
    time_grid,
    training_loss,
)

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([-1.2, 0.8], dtype=torch.float64)
STDS = torch.tensor([0.2, 0.5], dtype=torch.float64)
N = 10_000


def draw(n, rng):
    k = torch.multinomial(WEIGHTS, n, replacement=True, generator=rng)
    return (MEANS[k] + STDS[k] * torch.randn(n, generator=rng, dtype=torch.float64))[:, None]


def cdf(x):
    return sum(float(w) * stats.norm.cdf(x, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))


def optimal(process):
    """E[x_0 | x_t] of the mixture."""

    def denoise(x, t):
        abar = process.alphas_cumprod[t][:, None]
        var = abar * STDS**2 + 1 - abar
        residual = x - abar.sqrt() * MEANS
        responsibility = torch.softmax(WEIGHTS.log() - 0.5 * var.log() - residual**2 / (2 * var), dim=1)
        return (responsibility * (MEANS + STDS**2 * abar.sqrt() / var * residual)).sum(1, keepdim=True)

    return denoise


def ks_tolerance(n, bias=0.0):
    """A Kolmogorov-Smirnov distance that n exact draws exceed once in 10,000 times, plus the method's own error."""
    return stats.kstwo.isf(1e-4, n) + bias


def check(sample, bias):
    """Distribution and moments; ``bias`` is the distance in probability allowed beyond sampling error."""
    x = sample.flatten()
    assert stats.kstest(x.numpy(), cdf).statistic < ks_tolerance(len(x), bias)
    mean = (WEIGHTS * MEANS).sum()
    var = (WEIGHTS * (STDS**2 + MEANS**2)).sum() - mean**2
    # A distance of `bias` in probability moves the mean of something on an interval of width 4 by at most 4 times that.
    assert abs(float(x.mean() - mean)) < 4.5 * float(var / len(x)) ** 0.5 + 4 * bias
    assert float(x.var()) == pytest.approx(float(var), abs=4.5 * float(var) * (2 / len(x)) ** 0.5 + 16 * bias)


def test_the_optimal_denoiser_is_one(rng):
    """By its definition: no other function has a smaller error, so its residual is unrelated to any function of x_t."""
    process, n = GaussianDiffusion(make_betas("exp", 20)), 50_000
    x_0, t = draw(n, rng), torch.randint(20, (n,), generator=rng)
    x_t = process.q_sample(x_0, t, torch.randn(n, 1, generator=rng, dtype=torch.float64))
    residual = x_0 - optimal(process)(x_t, t)
    for probe in (torch.ones_like(x_t), x_t, x_t**2, torch.tanh(3 * x_t), x_t * t[:, None]):
        product = residual * probe
        assert abs(float(product.mean())) < 4.5 * float(product.std()) / n**0.5


def test_ancestral_sampling_returns_the_mixture(rng):
    """Algorithm 2 of Ho et al. 2020, with the optimal eps-network."""
    process = GaussianDiffusion(make_betas("linear", 1000))
    exact = optimal(process)
    denoise = process.denoiser(lambda x, t: process.eps_from_x0(x, t, exact(x, t)), "eps")
    x_T = torch.randn(N, 1, generator=rng, dtype=torch.float64)
    # T steps approach the mixture as T grows; at 1000 they are off by about .002 (seen with 400,000 samples).
    check(ancestral(denoise, x_T, process, time_grid(process), noise=stream_noise(rng)), bias=0.003)


@pytest.mark.parametrize(
    ("sampler", "steps", "more"), [(ddim, 250, {}), (ddim, 250, {"eta": 1.0}), (dpmpp_2m, 40, {})],
    ids=["ddim", "ddim-eta1", "dpmpp_2m"],
)
def test_strided_samplers_return_the_mixture(sampler, steps, more, rng):
    process = GaussianDiffusion(make_betas("linear", 1000))
    x_T = torch.randn(N, 1, generator=rng, dtype=torch.float64)
    grid = time_grid(process, steps, "log-snr")
    # Off by .0035 to .005 with 400,000 samples.
    check(sampler(optimal(process), x_T, process, grid, noise=stream_noise(rng), **more), bias=0.005)


def test_a_network_trained_by_algorithm_1_samples_the_mixture(rng):
    process, rows = GaussianDiffusion(make_betas("cosine", 100)), 512
    width = 64
    network = nn.Sequential(nn.Linear(17, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def predict(x, t):
        return network(torch.cat([x, sinusoidal_embedding(t, 16)], dim=1))

    steps = 1500
    timesteps = UniformTimesteps(100)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x_0 = draw(rows, rng).float()
        eps = torch.randn(rows, 1, generator=rng)
        t, weight = timesteps.sample(rows, rng)
        x_t = process.q_sample(x_0, t, eps)
        loss = training_loss(process, "eps", predict(x_t, t), x_0, eps, x_t, t, reweight=False)
        optimizer.zero_grad()
        (loss / weight).mean().backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        x_T = torch.randn(N, 1, generator=rng)
        sample = ancestral(process.denoiser(predict, "eps"), x_T, process, time_grid(process), noise=stream_noise(rng))
    # 1500 steps do not learn it exactly: over seeds it is .009 to .016 off. A Gaussian of the same moments is .14 off.
    check(sample.double(), bias=0.02)
    gaussian = stats.norm(float(sample.mean()), float(sample.std()))
    assert stats.kstest(draw(N, rng).flatten().numpy(), gaussian.cdf).statistic > 2 * ks_tolerance(N, 0.02)
