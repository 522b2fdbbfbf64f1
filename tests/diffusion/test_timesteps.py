"""Timestep samplers against a loop over samples, and the unbiasedness they promise."""

from collections import deque

import pytest
import torch
from torch import nn

from recbole_diffusion.diffusion import ImportanceTimesteps, UniformTimesteps


def brute_force(updates, n_steps, history, uniform_prob):
    """p_t by the words of DiffRec's section 3.3, one loss at a time."""
    kept = [deque(maxlen=history) for _ in range(n_steps)]
    for t, losses in updates:
        for i, loss in zip(t.tolist(), losses.tolist(), strict=True):
            kept[i].append(loss)
    if any(len(values) < history for values in kept):
        return [1 / n_steps] * n_steps
    magnitude = [(sum(x * x for x in values) / history) ** 0.5 for values in kept]
    return [m / sum(magnitude) * (1 - uniform_prob) + uniform_prob / n_steps for m in magnitude]


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize(("n_steps", "history"), [(1, 1), (4, 1), (5, 3), (3, 10)])
def test_probabilities_equal_the_loop(n_steps, history, batch, rng):
    sampler = ImportanceTimesteps(n_steps, history, 0.01)
    updates = []
    for _ in range(4 * n_steps * history // batch + 6):
        t = torch.randint(n_steps, (batch,), generator=rng)
        losses = torch.rand(batch, generator=rng, dtype=torch.float64) * (t + 1)
        updates.append((t, losses))
        sampler.update(t, losses)
        expected = torch.tensor(brute_force(updates, n_steps, history, 0.01), dtype=torch.float64)
        torch.testing.assert_close(sampler.probabilities(), expected)


def ready_sampler(rng, n_steps=6):
    sampler = ImportanceTimesteps(n_steps, history=2, uniform_prob=0.1)
    t = torch.arange(n_steps).repeat(2)
    sampler.update(t, torch.rand(len(t), generator=rng) * (t + 1) ** 2)
    return sampler


def test_draws_follow_the_probabilities_and_weights_are_t_p(rng):
    sampler, n = ready_sampler(rng), 200_000
    t, weight = sampler.sample(n, rng)
    p = sampler.probabilities()
    assert float(p.max() / p.min()) > 5  # not uniform, or this would show nothing
    counts = torch.bincount(t, minlength=6).double()
    z_scores = (counts / n - p) / (p * (1 - p) / n).sqrt()
    assert float(z_scores.abs().max()) < 4.5
    torch.testing.assert_close(weight, (6 * p[t]).float())


def test_weighted_losses_estimate_the_mean_over_t_without_bias(rng):
    sampler, n = ready_sampler(rng), 200_000
    loss_at = torch.tensor([3.0, -1.0, 0.5, 10.0, 0.0, 2.0])
    t, weight = sampler.sample(n, rng)
    estimates = loss_at[t] / weight
    error = float(estimates.mean() - loss_at.mean())
    assert abs(error) < 4.5 * float(estimates.std()) / n**0.5


@pytest.mark.parametrize("sampler", [UniformTimesteps(5), ImportanceTimesteps(5)])
def test_uniform_until_told_otherwise(sampler, rng):
    sampler.update(torch.tensor([0, 0, 1]), torch.tensor([9.0, 9.0, 1.0]))
    t, weight = sampler.sample(50_000, rng)
    assert torch.equal(weight, torch.ones(50_000))
    counts = torch.bincount(t, minlength=5).double()
    assert float(((counts - 10_000) / (50_000 * 0.2 * 0.8) ** 0.5).abs().max()) < 4.5


@pytest.mark.parametrize("make", [UniformTimesteps, ImportanceTimesteps])
def test_same_generator_same_draws(make):
    a, b = (make(9).sample(20, torch.Generator().manual_seed(4))[0] for _ in range(2))
    assert torch.equal(a, b)


def test_state_is_saved_and_keeps_its_precision(rng):
    parent = nn.Module()
    parent.sampler = ready_sampler(rng)
    parent.half()
    assert parent.sampler.losses.dtype == torch.float64
    fresh = nn.Module()
    fresh.sampler = ImportanceTimesteps(6, history=2, uniform_prob=0.1)
    fresh.load_state_dict(parent.state_dict())
    assert torch.equal(fresh.sampler.probabilities(), parent.sampler.probabilities())
    for module in (fresh, parent):
        module.sampler.update(torch.tensor([2]), torch.tensor([7.0]))
    assert torch.equal(fresh.sampler.probabilities(), parent.sampler.probabilities())
    assert UniformTimesteps(3).state_dict() == {}


def test_losses_that_are_zero_or_not_finite_do_no_harm():
    sampler = ImportanceTimesteps(3, history=1)
    sampler.update(torch.arange(3), torch.zeros(3))
    torch.testing.assert_close(sampler.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))
    sampler.update(torch.arange(3), torch.tensor([float("inf"), float("nan"), 2.0]))
    p = sampler.probabilities()
    assert torch.isfinite(p).all()
    assert float(p.sum()) == pytest.approx(1)
    assert int(p.argmax()) == 2


def test_the_graph_is_not_kept():
    sampler = ImportanceTimesteps(2, history=1)
    sampler.update(torch.tensor([0, 1]), torch.ones(2, requires_grad=True) * 2)
    assert not sampler.losses.requires_grad


@pytest.mark.parametrize(
    ("arguments", "named"), [((0,), "n_steps=0"), ((3, 0), "history=0"), ((3, 1, 1.5), "uniform_prob=1.5")]
)
def test_values_outside_their_range_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        ImportanceTimesteps(*arguments)
    with pytest.raises(ValueError, match="n_steps=-1"):
        UniformTimesteps(-1)
