"""Straight paths: Euler, the bridge without variance, and FlowCF's 0/1 rows."""

import pytest
import torch

from recbole_diffusion.diffusion import BernoulliFlow, BrownianBridge, RectifiedFlow, stepwise, time_grid


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_euler_with_the_true_velocity_recovers_the_data(steps, rng):
    """The path is straight, so any number of Euler steps is exact; written in the velocity, without `step`'s lerp."""
    flow = RectifiedFlow(7)
    x_0, eps = (torch.randn(4, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    x = eps
    for t, s in time_grid(flow, steps):
        velocity = flow.velocity(x_0, x, t)
        torch.testing.assert_close(velocity, x_0 - eps, rtol=1e-9, atol=1e-9)
        x = x + (t - s) / 7 * velocity
        if s >= 0:
            torch.testing.assert_close(x, flow.q_sample(x_0, torch.full((4,), s), eps))
    torch.testing.assert_close(x, x_0, rtol=1e-9, atol=1e-9)


def test_a_step_is_euler_s_for_any_estimate(rng):
    flow = RectifiedFlow(10)
    x, x0_hat = (torch.randn(4, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    for t, s in [(9, 8), (9, 2), (3, 0), (5, -1)]:
        expected = x + (t - s) / 10 * flow.velocity(x0_hat, x, t)
        torch.testing.assert_close(flow.step(x0_hat, x, t, s), expected)


def test_euler_of_a_linear_field_converges_at_first_order():
    """x0_hat = a x: dx/dtau = (1 - a) x / tau, so from tau = 1 down to .5 x is scaled by .5^(1-a)."""
    errors = []
    for n in (20, 40, 80):
        flow = RectifiedFlow(n)
        x = torch.ones(1, 1, dtype=torch.float64)
        for t in range(n - 1, n // 2 - 1, -1):
            x = flow.step(0.3 * x, x, t, t - 1)
        errors.append(abs(float(x) - 0.5**0.7))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1) and errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_the_straight_path_is_the_bridge_without_variance(rng):
    flow, bridge = RectifiedFlow(5), BrownianBridge(torch.arange(1, 6, dtype=torch.float64) / 5, variance=0.0)
    x_0, eps, unused = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(3))
    t = torch.arange(5)
    torch.testing.assert_close(flow.q_sample(x_0, t, eps), bridge.q_sample(x_0, t, unused, eps))
    torch.testing.assert_close(flow.step(x_0, eps, 3, 1), bridge.step(x_0, eps, 3, 1))


def test_levels_instead_of_steps_and_at_each_position(rng):
    flow = RectifiedFlow(4)
    x_0, eps = (torch.randn(2, 3, 5, generator=rng) for _ in range(2))
    t = torch.tensor([[0, 1, 3], [2, 2, 0]])
    by_step = flow.q_sample(x_0, t, eps)
    assert torch.equal(by_step, flow.q_sample(x_0, (t + 1) / 4, eps))
    for i in range(2):
        for j in range(3):
            tau = (float(t[i, j]) + 1) / 4
            torch.testing.assert_close(by_step[i, j], (1 - tau) * x_0[i, j] + tau * eps[i, j])


# --- FlowCF's flow -------------------------------------------------------------------------------------------------


def test_marginals_of_the_bernoulli_flow(rng):
    """P(x_t = 1) = (1 - tau) x_0 + tau pi, by Monte Carlo; standard error below .0012."""
    prior = torch.tensor([0.05, 0.5, 0.9, 0.0])
    flow = BernoulliFlow(prior, 9)
    x_0 = torch.tensor([0.0, 1.0, 1.0, 0.0]).expand(200_000, -1)
    for t in (0, 3, 7):
        tau = (t + 1) / 9
        drawn = flow.q_sample(x_0, torch.full((200_000,), t), rng).mean(0)
        torch.testing.assert_close(drawn, (1 - tau) * x_0[0] + tau * prior, rtol=0, atol=0.006)
    for drawn in (flow.q_sample(x_0, torch.full((200_000,), 8), rng), flow.prior(200_000, rng)):
        torch.testing.assert_close(drawn.mean(0), prior, rtol=0, atol=0.006)


def test_x_t_takes_each_entry_from_the_data_or_the_prior(rng):
    """What is not 0 at the end of the data's row and of a prior without ones stays 0, and vice versa."""
    zeros, ones = torch.zeros(1000, 1), torch.ones(1000, 1)
    t = torch.randint(5, (1000,), generator=rng)
    assert BernoulliFlow(torch.zeros(1), 5).q_sample(zeros, t, rng).sum() == 0
    assert BernoulliFlow(torch.ones(1), 5).q_sample(ones, t, rng).sum() == 1000


def test_a_flip_needs_an_output_above_one():
    """At the last step but one (t = 1, FlowCF's i = n - 2), FlowCF's own form: prob = X + v / n, v = (f - X) / (1 - s)."""
    n = 9
    flow = BernoulliFlow(torch.full((6,), 0.1), n)
    x = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    f = torch.tensor([[0.99, 1.01, -3.0, 0.0, 1.2, -5.0]])
    for t, i in ((1, n - 2), (4, n - 5)):
        prob = x + (f - x) / (1 - i / n) / n
        assert torch.equal(flow.step(f, x, t, t - 1), torch.maximum(x, (prob > 0.5).float()))
    assert torch.equal(flow.step(f, x, 1, 0), torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0, 1.0]]))


def test_below_one_two_passes_are_one():
    """Hence the scores of FlowCF's two-step sampler are the network's at t = 0 for outputs up to 1."""
    flow = BernoulliFlow(torch.full((3,), 0.1), 9)
    x = torch.tensor([[1.0, 0.0, 0.0]])
    network = lambda x, t: torch.sigmoid(x.flip(1) + t[:, None])  # noqa: E731
    scores = stepwise(network, x, flow, [(1, 0), (0, -1)])
    assert torch.equal(scores, network(x, torch.tensor([0])))


@pytest.mark.parametrize("n_steps", [0, 2.5, True])
def test_bad_arguments_are_named(n_steps):
    for make in (RectifiedFlow, lambda n: BernoulliFlow(torch.tensor([0.5]), n)):
        with pytest.raises(ValueError, match="n_steps="):
            make(n_steps)
    with pytest.raises(ValueError, match="prior_prob"):
        BernoulliFlow(torch.tensor([1.5]), 3)
