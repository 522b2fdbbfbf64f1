"""Absorbing diffusion: marginals, Bayes, and the identity of one masked token with cross-entropy."""

import itertools
import math

import pytest
import torch

from recbole_diffusion.diffusion import AbsorbingDiffusion, stepwise, time_grid

MASK = 0
CURVED = torch.tensor([0.05, 0.3, 0.4, 0.85, 1.0], dtype=torch.float64)


@pytest.fixture(params=["uniform", "curved", "one-step"])
def process(request):
    return AbsorbingDiffusion(MASK, {"uniform": 6, "curved": CURVED, "one-step": 1}[request.param])


def steps_of(process):
    """P(shown at t) / P(shown at t - 1): the probability that a shown token survives step t."""
    shown = torch.cat([torch.ones(1, dtype=torch.float64), 1 - process.rates])
    return shown[1:] / shown[:-1]


def test_marginals_are_the_rates(process, rng):
    x_0 = torch.randint(1, 50, (20_000, 3), generator=rng)
    for t in range(process.n_steps):
        u = torch.rand(x_0.shape, generator=rng)
        x_t = process.q_sample(x_0, torch.full((20_000,), t), u)
        masked = x_t == MASK
        assert torch.equal(x_t[~masked], x_0[~masked])
        assert float(masked.double().mean()) == pytest.approx(float(process.rates[t]), abs=0.01)
    assert bool(masked.all()) and torch.equal(x_t, process.prior(x_0))


def test_posterior_is_bayes(process):
    """P(shown at t-1 | masked at t) = P(masked at t | shown at t-1) P(shown at t-1) / P(masked at t), by composed steps."""
    survive = steps_of(process)
    shown = 1.0
    for t in range(process.n_steps):
        masked = 1 - shown * float(survive[t])
        expected = shown * (1 - float(survive[t])) / masked
        assert float(process.posterior(torch.tensor(t))) == pytest.approx(expected, rel=1e-9)
        shown *= float(survive[t])


def test_weights_of_the_uniform_schedule_are_one_over_the_rate():
    process = AbsorbingDiffusion(MASK, 8)
    t = torch.arange(8)
    torch.testing.assert_close(process.weight(t), 8 / (t + 1).double())


def test_one_token_s_elbo_is_cross_entropy(process):
    """Summed over t and over masked or not, with exact probabilities: no Monte Carlo, any rates."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
    target = 2
    nll = -torch.log_softmax(logits, 0)[target]
    t = torch.arange(process.n_steps)
    x_t = torch.full((process.n_steps, 1), MASK)
    expected = (process.rates * process.loss(nll.expand(process.n_steps, 1), x_t, t)).mean()
    torch.testing.assert_close(expected, torch.nn.functional.cross_entropy(logits[None], torch.tensor([target])))


def test_one_token_s_elbo_by_monte_carlo(rng):
    process = AbsorbingDiffusion(MASK, CURVED)
    n = 400_000
    t, u = torch.randint(5, (n,), generator=rng), torch.rand(n, 1, generator=rng)
    x_t = process.q_sample(torch.full((n, 1), 3), t, u)
    estimate = process.loss(torch.full((n, 1), 1.7), x_t, t)
    assert float(estimate.mean()) == pytest.approx(1.7, abs=5 * float(estimate.std()) / math.sqrt(n))


def test_the_elbo_of_a_sequence_bounds_its_likelihood():
    """Two tokens: as T grows, the ELBO tends to the mean over orders of the autoregressive log-likelihood.

    (Uria et al. 2014; Hoogeboom et al. 2022, Eq. 3.) At finite T both tokens may be shown in the same step.
    """
    joint = torch.tensor([[0.1, 0.25], [0.4, 0.25]], dtype=torch.float64)
    first, second = joint.sum(1), joint.sum(0)
    tilt = torch.tensor([[0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)  # p(second | first); not the joint's own
    a, b = 1, 0
    log = torch.log
    orders = [log(first[a]) + log(tilt[a, b]), log(second[b]) + log((joint / second)[a, b])]
    both, only_first, only_second = -log(first[a]) - log(second[b]), -log((joint / second)[a, b]), -log(tilt[a, b])
    for T, tolerance in ((200, 0.01), (4000, 0.0005)):
        process = AbsorbingDiffusion(MASK, T)
        rate, weight = process.rates, process.weight(torch.arange(T)) / T
        elbo = (weight * (rate**2 * both + rate * (1 - rate) * (only_first + only_second))).sum()
        assert float(elbo) == pytest.approx(-float(sum(orders)) / 2, abs=tolerance)


def test_drawing_in_many_steps_is_drawing_in_one(rng):
    """A single token: whatever the steps, the distribution is the network's at the mask."""
    process = AbsorbingDiffusion(MASK, 6)
    p = torch.tensor([0.0, 0.2, 0.5, 0.3])
    n = 100_000
    denoise = lambda x, t: torch.multinomial(p, len(x), replacement=True, generator=rng)[:, None]  # noqa: E731
    uniform = lambda x, draw: torch.rand(x.shape, generator=rng)  # noqa: E731
    start = process.prior(torch.ones(n, 1, dtype=torch.long))
    for steps in (1, 3, 6):
        x = stepwise(denoise, start, process, time_grid(process, steps), noise=uniform)
        torch.testing.assert_close(torch.bincount(x[:, 0], minlength=4) / n, p, rtol=0, atol=0.008)


def test_the_reverse_pass_has_the_forward_marginals(process, rng):
    """With the true x_0 the share of masked tokens at s is the rate at s, by way of any t."""
    x_0 = torch.randint(1, 9, (20_000, 2), generator=rng)
    last = process.n_steps - 1
    ways = [[last, t, s] for s, t in itertools.combinations(range(last), 2)]
    ways += [list(range(last, s - 1, -1)) for s in range(last)]
    for way in ways:
        x_s = process.prior(x_0)
        for t, s in itertools.pairwise(way):
            x_s = process.step(x_0, x_s, t, s, torch.rand(x_0.shape, generator=rng))
        assert bool(((x_s == x_0) | (x_s == MASK)).all())
        assert float((x_s == MASK).double().mean()) == pytest.approx(float(process.rates[way[-1]]), abs=0.015)
    assert torch.equal(process.step(x_0, process.prior(x_0), 0, -1), x_0)


def test_what_is_shown_stays(rng):
    process = AbsorbingDiffusion(MASK, 6)
    x_t, x0_hat = torch.tensor([[4, MASK, 7]]), torch.tensor([[1, 2, 3]])
    assert torch.equal(process.step(x0_hat, x_t, 3, -1), torch.tensor([[4, 2, 7]]))
    assert torch.equal(process.step(x0_hat, x_t, 3, 2, torch.zeros(1, 3)), x_t)


def test_a_rate_of_its_own_at_each_position(rng):
    process = AbsorbingDiffusion(MASK, 6)
    x_0, u = torch.randint(1, 9, (2, 3), generator=rng), torch.full((2, 3), 0.5)
    t = torch.tensor([[0, 2, 3], [5, 1, 4]])  # masked where (t + 1) / 6 exceeds .5
    assert torch.equal(process.q_sample(x_0, t, u) == MASK, t > 2)


def test_bad_arguments_are_named(rng):
    for rates, named in ((0, "n_steps=0"), ([0.5, 0.9], "rates must end at 1"), ([0.5, 0.4], "rise")):
        rates = torch.tensor(rates) if isinstance(rates, list) else rates
        with pytest.raises(ValueError, match=named):
            AbsorbingDiffusion(MASK, rates)
    process = AbsorbingDiffusion(MASK, 3)
    with pytest.raises(ValueError, match="z: "):
        process.step(torch.ones(1, 1), process.prior(torch.ones(1, 1)), 2, 1)
