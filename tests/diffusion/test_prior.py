"""Diffusion towards a prior, against the joint distribution of all x_t written out for a few tokens."""

import itertools

import pytest
import torch

from recbole_diffusion.diffusion.prior import PriorDiffusion
from recbole_diffusion.diffusion.samplers import time_grid

N, T = 4, 3


@pytest.fixture
def process():
    return PriorDiffusion(torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64))


@pytest.fixture
def p(rng):
    return torch.rand(N, generator=rng, dtype=torch.float64).add_(0.1).softmax(0)


@pytest.fixture
def r(rng):
    return torch.randn(N, generator=rng, dtype=torch.float64).mul_(2).softmax(0)


def forward(process, p):
    """The Markov chain's one-step matrices q(x_t | x_{t-1}), [T, N, N], from its definition."""
    alphabar = [1.0, *(1 - process.rates).tolist()]
    eye = torch.eye(N, dtype=p.dtype)
    return [(b / a) * eye + (1 - b / a) * p.expand(N, N) for a, b in itertools.pairwise(alphabar)]


def joint(process, p, r):
    """P(x_0, x_1, .., x_T), [N] * (T + 1), code index t at axis t + 1."""
    table = r
    for matrix in forward(process, p):
        table = table[..., None] * matrix
    return table


def pair(table, *axes):
    """The marginal over two axes, in the order in which they are named."""
    kept = table.sum([axis for axis in range(table.dim()) if axis not in axes])
    return kept if axes[0] < axes[1] else kept.T


def test_forward_marginals_are_the_closed_form(process, p, r):
    table = joint(process, p, r)
    for t in range(T):
        rate = process.rates[t]
        expected = r[:, None] * ((1 - rate) * torch.eye(N, dtype=p.dtype) + rate * p)
        torch.testing.assert_close(pair(table, 0, t + 1), expected)
    torch.testing.assert_close(table.sum([0, 1, 2]), p)  # the limit


def test_samples_have_the_forward_marginals(process, p, rng):
    n = 200_000
    drawn = torch.multinomial(p, n, replacement=True, generator=rng)
    for t in range(T):
        x_t = process.q_sample(torch.full((n,), 2), torch.full((n,), t), torch.rand(n, generator=rng), drawn)
        expected = pair(joint(process, p, torch.eye(N, dtype=p.dtype)[2]), 0, t + 1)[2]
        torch.testing.assert_close(torch.bincount(x_t, minlength=N) / n, expected.float(), rtol=0, atol=0.005)


def test_evidence_is_what_bayes_rule_adds_to_the_logit_of_x_t(process, p, r):
    table = joint(process, p, r)
    for t, j in itertools.product(range(T), range(N)):
        logits = r.log()
        logits[j] += process.evidence(p[j], torch.tensor([t])).squeeze()
        column = pair(table, 0, t + 1)[:, j]
        torch.testing.assert_close(logits.softmax(0), column / column.sum())


def brute_force_step(process, p, r, m, t, s):
    """sum over x_t and x_0 of m(x_t) p_r(x_0 | x_t) q(x_s | x_t, x_0), from tables."""
    found = torch.zeros(N, dtype=p.dtype)
    of_r = pair(joint(process, p, r), 0, t + 1)
    for x_t, x_0 in itertools.product(range(N), range(N)):
        if s < 0:
            to = torch.eye(N, dtype=p.dtype)[x_0]
        else:
            # x_0 fixed: the law of (x_s, x_t), of which the column of x_t is q(x_s | x_t, x_0).
            given = joint(process, p, torch.eye(N, dtype=p.dtype)[x_0])
            to = pair(given, s + 1, t + 1)[:, x_t]
            to = to / to.sum()
        found += m[x_t] * of_r[x_0, x_t] / of_r[:, x_t].sum() * to
    return found


@pytest.mark.parametrize(("t", "s"), [(t, s) for t in range(T) for s in range(-1, t)])
def test_marginal_steps_are_the_sums_over_all_pairs(process, p, r, rng, t, s):
    """Whatever the distribution of x_t, also one that the forward process does not have."""
    m = torch.randn(N, generator=rng, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(process.marginal_step(m, r, p, t, s), brute_force_step(process, p, r, m, t, s))


def test_any_number_of_steps_is_one_shot(p, r):
    """With one r for all t the reverse pass from the prior has the forward marginals, and ends at r."""
    process = PriorDiffusion(7)
    for n_steps in (1, 2, 5, 7):
        m = p
        for t, s in time_grid(process, n_steps):
            m = process.marginal_step(m, r, p, t, s)
            rate = process.rates[s] if s >= 0 else 0.0
            torch.testing.assert_close(m, (1 - rate) * r + rate * p)


def test_the_elbo_is_cross_entropy(process, p, r):
    """-log r(x_0) = the sum over t of KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and the first term, all from tables."""
    table = joint(process, p, r)
    for x_0 in range(N):
        given = joint(process, p, torch.eye(N, dtype=p.dtype)[x_0])
        elbo = torch.zeros((), dtype=p.dtype)
        for t in range(T):
            model, true = pair(table, t, t + 1), pair(given, t, t + 1)
            model = model / model.sum(0)  # p(x_{t-1} | x_t) of the joint distribution; at t = 0, p(x_0 | x_1)
            posterior = true / true.sum(0)
            elbo += torch.xlogy(true, posterior / model).sum()
        torch.testing.assert_close(elbo, -r[x_0].log())


def test_one_level_is_no_diffusion(p):
    process = PriorDiffusion(1)
    assert process.n_steps == 1
    assert process.evidence(p, torch.zeros(N, dtype=torch.long)).eq(0).all()
    assert process.q_sample(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.999]), torch.tensor([3])).item() == 3


def test_bad_arguments_are_named():
    for rates, named in ((0, "n_steps=0"), ([0.5, 0.9], "rates must end at 1"), ([0.5, 0.4], "rise")):
        with pytest.raises(ValueError, match=named):
            PriorDiffusion(torch.tensor(rates) if isinstance(rates, list) else rates)
