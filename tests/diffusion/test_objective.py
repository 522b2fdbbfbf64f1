"""Losses and ELBO terms against torch.distributions and a Gaussian toy whose terms are known."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from recbole_diffusion.diffusion import (
    PREDICTIONS,
    GaussianDiffusion,
    elbo_terms,
    elbo_weight,
    make_betas,
    posterior_kl,
    prior_kl,
    reconstruction_nll,
    stream_noise,
    training_loss,
)
from recbole_diffusion.diffusion.objective import squared_error

WIDTH = 4


def batch(process, rng):
    """One row for each t: x_0, eps, x_t, t and a wrong estimate of x_0."""
    t = torch.arange(process.n_steps)
    x_0, eps, x0_hat = (torch.randn(len(t), WIDTH, generator=rng, dtype=torch.float64) for _ in range(3))
    return x_0, eps, process.q_sample(x_0, t, eps), t, x0_hat


def output_for(process, prediction, x0_hat, x_t, t):
    """The network output that means x0_hat."""
    eps_hat = process.eps_from_x0(x_t, t, x0_hat)
    return {"x0": x0_hat, "eps": eps_hat, "v": process.v_from_x0_eps(x0_hat, t, eps_hat)}[prediction]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_plain_loss_is_the_mean_squared_error_in_the_predicted_quantity(process, rng, prediction):
    x_0, eps, x_t, t, x0_hat = batch(process, rng)
    target = output_for(process, prediction, x_0, x_t, t)
    output = output_for(process, prediction, x0_hat, x_t, t)
    loss = training_loss(process, prediction, output, x_0, eps, x_t, t, reweight=False)
    torch.testing.assert_close(loss, ((output - target) ** 2).sum(1) / WIDTH, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_reweighted_loss_is_the_posterior_kl(process, rng, prediction):
    """Eq. 11 is a Kullback-Leibler divergence between two Gaussians; torch knows those. Eq. 12 at the first step."""
    x_0, eps, x_t, t, x0_hat = batch(process, rng)
    output = output_for(process, prediction, x0_hat, x_t, t)
    loss = training_loss(process, prediction, output, x_0, eps, x_t, t, reweight=True)
    true_mean, var = process.posterior(x_0, x_t, t)
    model_mean = process.posterior_mean(x0_hat, x_t, t)
    std = var.sqrt()[1:]
    kl = kl_divergence(Normal(true_mean[1:], std), Normal(model_mean[1:], std))
    torch.testing.assert_close(loss[1:], kl.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss[0], ((x0_hat - x_0)[0] ** 2).mean(), rtol=1e-7, atol=0)
    torch.testing.assert_close(posterior_kl(process, x0_hat, x_0, t)[1:], kl.sum(1), rtol=1e-6, atol=0)


def test_x0_weight_is_half_the_snr_difference(process):
    t = torch.arange(1, process.n_steps)
    difference = 0.5 * (process.snr(t - 1) - process.snr(t))
    torch.testing.assert_close(elbo_weight(process, t), difference, rtol=1e-7, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_stay_finite_in_float32_and_with_gradients(process, rng, prediction):
    x_0, eps, x_t, t, _ = (value.float() if value.is_floating_point() else value for value in batch(process, rng))
    output = torch.zeros_like(x_0, requires_grad=True)
    loss = training_loss(process, prediction, output, x_0, eps, x_t, t, reweight=True)
    loss.sum().backward()
    assert loss.shape == (process.n_steps,)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert torch.isfinite(output.grad).all()


def test_a_loss_does_not_depend_on_its_batch(process, rng):
    x_0, eps, x_t, t, x0_hat = batch(process, rng)
    whole = training_loss(process, "x0", x0_hat, x_0, eps, x_t, t, reweight=True)
    rows = [
        training_loss(process, "x0", *(value[i : i + 1] for value in (x0_hat, x_0, eps, x_t, t)), reweight=True)
        for i in range(len(t))
    ]
    torch.testing.assert_close(whole, torch.cat(rows), rtol=1e-14, atol=0)


def test_prior_kl(process, rng):
    x_0 = torch.randn(5, 2, 3, generator=rng, dtype=torch.float64)
    last = torch.full((5,), process.n_steps - 1)
    mean = process.q_sample(x_0, last, torch.zeros_like(x_0))
    std = process.q_sample(torch.zeros_like(x_0), last, torch.ones_like(x_0))
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(prior_kl(process, x_0), expected, rtol=1e-7, atol=1e-12)


def test_reconstruction_nll(process, rng):
    x_0, x0_hat = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    for var in (None, 0.3):
        std = float(process.betas[0]) ** 0.5 if var is None else var**0.5
        expected = -Normal(x0_hat, std).log_prob(x_0).sum(1)
        torch.testing.assert_close(reconstruction_nll(process, x0_hat, x_0, var), expected, rtol=1e-9, atol=0)


def test_elbo_terms_of_a_gaussian_with_its_own_denoiser(rng):
    """x_0 ~ N(mu, s^2): E[x_0 | x_t] is linear, its error Var(x_0 | x_t) = s^2 (1 - abar) / (abar s^2 + 1 - abar)."""
    process, mu, s = GaussianDiffusion(make_betas("exp", 8)), 0.5, 0.8
    abar = process.alphas_cumprod
    remaining = s**2 * (1 - abar) / (abar * s**2 + 1 - abar)

    def denoise(x, t):
        a = abar[t][:, None]
        return mu + s**2 * a.sqrt() / (a * s**2 + 1 - a) * (x - a.sqrt() * mu)

    n = 40_000
    x_0 = mu + s * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    terms = elbo_terms(denoise, x_0, process, stream_noise(rng))

    def near(samples, expected):
        return abs(float(samples.mean()) - float(expected)) < 4.5 * float(samples.std()) / n**0.5

    snr = abar / (1 - abar)
    for i in range(7):
        assert near(terms.posterior_kl[:, i], 0.5 * (snr[i] - snr[i + 1]) * remaining[i + 1])
    beta_1 = float(process.betas[0])
    assert near(terms.reconstruction_nll, 0.5 * (float(remaining[0]) / beta_1 + math.log(2 * math.pi * beta_1)))
    assert near(terms.prior_kl, 0.5 * float(abar[-1] * (mu**2 + s**2 - 1) - torch.log1p(-abar[-1])))
    torch.testing.assert_close(terms.total, terms.prior_kl + terms.posterior_kl.sum(1) + terms.reconstruction_nll)
    # A bound on -log p(x_0) cannot be below the data's entropy.
    assert float(terms.total.mean()) > 0.5 * math.log(2 * math.pi * math.e * s**2)


def test_elbo_terms_of_a_perfect_denoiser_are_the_bare_minimum(process, rng):
    x_0 = torch.randn(3, 2, generator=rng)
    terms = elbo_terms(lambda x, t: x_0, x_0, process, stream_noise(rng))
    assert terms.posterior_kl.shape == (3, process.n_steps - 1)
    assert terms.total.dtype == torch.float64
    assert not terms.posterior_kl.any()
    expected = torch.full((3,), math.log(2 * math.pi * float(process.betas[0])), dtype=torch.float64)
    torch.testing.assert_close(terms.reconstruction_nll, expected)


def test_bad_arguments_are_named():
    process, x, t = GaussianDiffusion(make_betas("linear", 3)), torch.zeros(2, 2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="'x_0'"):
        training_loss(process, "x_0", x, x, x, x, t, reweight=True)
    with pytest.raises(ValueError, match="'mean'"):
        elbo_weight(process, t, "mean")
    for var in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="decoder_var"):
            reconstruction_nll(process, x, x, var)


@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 3)])
def test_squared_error_and_its_gradients(shape):
    torch.manual_seed(0)
    a, b = (torch.randn(shape, dtype=torch.float64).requires_grad_() for _ in range(2))
    torch.testing.assert_close(squared_error(a, b), (a - b).square().reshape(5, -1).sum(1))
    assert torch.autograd.gradcheck(squared_error, (a, b))
    assert torch.autograd.gradcheck(lambda a: squared_error(a, b.detach()), (a,))
