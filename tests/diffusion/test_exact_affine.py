"""The one-shot affine chain against the loop it replaces: the same mean, the same covariance, the same samples."""

import time

import pytest
import torch

from recbole_diffusion.diffusion import (
    PREDICTIONS,
    ConditionedDenoiser,
    GaussianDiffusion,
    affine_chain,
    ancestral,
    classifier_free,
    make_betas,
    stream_noise,
    time_grid,
)
from recbole_diffusion.diffusion.exact import symmetric_root

D = 4


def affine_network(n_steps, rng, per_step=False):
    """A, shift [T, d] and the network they are."""
    shape = (n_steps, D, D) if per_step else (D, D)
    A = 0.5 * torch.randn(shape, generator=rng, dtype=torch.float64)
    shift = torch.randn(n_steps, D, generator=rng, dtype=torch.float64)

    def with_condition(u):
        def network(x, t):
            return (x[:, None] @ (A[t].mT if per_step else A.T)).squeeze(1) + u + shift[t]

        return network

    return A, shift, with_condition


def loop_mean(process, network, prediction, rows):
    """x_T = 0 and z = 0: the chain is affine in them, so this is its mean."""
    x_T = torch.zeros(rows, D, dtype=torch.float64)
    return ancestral(process.denoiser(network, prediction), x_T, process, time_grid(process))


def loop_covariance(process, network, prediction):
    """Exactly, by sending each coordinate of x_T and of each draw through the loop alone: one row for each of them."""
    n = process.n_steps
    units = torch.eye(n * D, dtype=torch.float64).view(n * D, n, D)  # draw 0 is x_T, draws 1..T-1 the steps'
    mean = loop_mean(process, network, prediction, 1)
    columns = ancestral(
        process.denoiser(network, prediction), units[:, 0], process, time_grid(process), noise=lambda x, i: units[:, i]
    )
    columns = columns - mean
    return columns.T @ columns


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_mean_and_covariance_are_the_loops(process, rng, prediction, per_step):
    A, shift, with_condition = affine_network(process.n_steps, rng, per_step)
    chain = affine_chain(A, shift, process, prediction)
    u = torch.randn(5, D, generator=rng, dtype=torch.float64)
    mean = loop_mean(process, with_condition(u), prediction, 5)
    covariance = loop_covariance(process, with_condition(u[:1]), prediction)
    for result, expected in ((chain.mean(u), mean), (chain.covariance(), covariance)):
        scale = float(expected.abs().max())
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-8 * max(scale, 1e-6))


@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_samples_have_the_moments_of_guided_dreamrec(scale, rng):
    """The published denoiser with guidance, sampled by the loop and in one shot."""
    process, n = GaussianDiffusion(make_betas("linear", 30, 1e-3, 0.3)), 20_000
    network = ConditionedDenoiser(D, "mlp1").double()
    with torch.no_grad():
        network.net.weight.mul_(0.7)  # keeps a guided chain from growing far beyond its start
        cond, uncond = torch.randn(1, D, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
        guided = classifier_free(network, cond.expand(n, -1), uncond, scale)
        x_T, z = (torch.randn(n, D, generator=rng, dtype=torch.float64) for _ in range(2))
        loop = ancestral(guided, x_T, process, time_grid(process), noise=stream_noise(rng))
        A, B, _, _ = network.affine_parts()
        chain = affine_chain(A, network.time_shift(torch.arange(30)), process)
        u = ((1 + scale) * cond - scale * uncond) @ B.T
        one_shot = chain.sample(u.expand(n, -1), z)
        exact = ancestral(
            classifier_free(network, cond, uncond, scale), torch.zeros(1, D).double(), process, time_grid(process)
        )
    torch.testing.assert_close(chain.mean(u), exact)
    variances = chain.covariance().diagonal()
    for sample in (loop, one_shot):
        standard_error = (variances / n).sqrt()
        assert (((sample.mean(0) - exact[0]) / standard_error).abs() < 4.5).all()
        # A sample covariance of Gaussians has variance (S_ii S_jj + S_ij^2) / n.
        S = chain.covariance()
        spread = ((torch.outer(variances, variances) + S**2) / n).sqrt()
        assert (((torch.cov(sample.T) - S) / spread).abs() < 4.5).all()


def test_rank_deficient_and_ill_conditioned_covariances(rng):
    process = GaussianDiffusion(make_betas("linear", 20, 1e-3, 0.3))
    shift = torch.zeros(20, D, dtype=torch.float64)
    # A network that ignores x gives a point; one of rank 1 leaves a line.
    point = affine_chain(torch.zeros(D, D), shift, process)
    assert not point.covariance().any()
    a, b = (torch.randn(D, generator=rng, dtype=torch.float64) for _ in range(2))
    line = affine_chain(torch.outer(a, b), shift, process)
    assert int(torch.linalg.matrix_rank(line.covariance(), rtol=1e-9)) == 1
    assert torch.isfinite(line.sample(torch.zeros(2, D), torch.randn(2, D))).all()
    # Singular values down to 1e-12 of the largest: squared, far below what float64 can tell from 0.
    diagonal = torch.tensor([1.0, 1e-3, 1e-8, 1e-12], dtype=torch.float64)
    wide = affine_chain(torch.diag(diagonal), shift, process)
    expected = loop_covariance(process, lambda x, t: x * diagonal, "x0")
    torch.testing.assert_close(wide.covariance(), expected, rtol=1e-9, atol=1e-15)


def test_symmetric_root_of_a_singular_matrix(rng):
    factor = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    S = factor @ factor.T
    root = symmetric_root(S)
    torch.testing.assert_close(root @ root.T, S)
    torch.testing.assert_close(root, root.T)


def test_the_result_has_the_conditions_type_and_rows_are_independent(rng):
    process = GaussianDiffusion(make_betas("cosine", 15))
    A, shift, _ = affine_network(15, rng)
    chain = affine_chain(A.float(), shift.float(), process)
    assert chain.M.dtype == chain.m.dtype == chain.S_factor.dtype == torch.float64
    u, z = (torch.randn(6, D, generator=rng) for _ in range(2))
    sample = chain.sample(u, z)
    assert sample.dtype == torch.float32
    torch.testing.assert_close(chain.sample(u[2:3], z[2:3]), sample[2:3])
    torch.testing.assert_close(sample, chain.sample(u.double(), z.double()).float())


def test_weights_with_gradients_are_taken_as_they_are():
    network = ConditionedDenoiser(D, "mlp1")
    process = GaussianDiffusion(make_betas("linear", 5))
    chain = affine_chain(network.affine_parts().A, network.time_shift(torch.arange(5)), process)
    assert not chain.M.requires_grad


def test_two_thousand_steps_compose_in_moments():
    """At DreamRec's longest chain; seconds would mean that composing costs as much as it saves."""
    process, d = GaussianDiffusion(make_betas("cosine", 2000)), 64
    began = time.perf_counter()
    chain = affine_chain(0.5 * torch.eye(d), torch.zeros(2000, d), process)
    assert time.perf_counter() - began < 5
    assert torch.isfinite(chain.S_factor).all()


def test_what_does_not_fit_or_diverges_is_named():
    process = GaussianDiffusion(make_betas("linear", 500))
    with pytest.raises(ValueError, match=r"T=500.*\(3, 4\)"):
        affine_chain(torch.eye(4), torch.zeros(3, 4), process)
    with pytest.raises(ValueError, match="'mean'"):
        affine_chain(torch.eye(4), torch.zeros(500, 4), process, "mean")
    with pytest.raises(ValueError, match="diverges over 500 steps"):
        affine_chain(1e4 * torch.eye(4), torch.zeros(500, 4), process)
