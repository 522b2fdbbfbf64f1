"""Keyed noise is standard normal, unrelated between its arguments, and the same in any batch."""

import pytest
import torch
from scipy import stats

from recbole_diffusion.diffusion import keyed_noise, stream_noise, zero_noise


def draw(keys, seed=0, number=0, width=1000, dtype=torch.float64):
    keys = torch.as_tensor(keys)
    return keyed_noise(keys, seed)(torch.empty(len(keys), width, dtype=dtype), number)


def correlation_is_noise(a, b):
    """|r| of n independent pairs has standard deviation 1/sqrt(n); 4.5 of them happen once in 150,000 tests."""
    r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
    return float(r.abs()) < 4.5 / a.numel() ** 0.5


@pytest.mark.parametrize(
    "sample",
    [
        draw([3], width=200_000),
        draw(torch.arange(200_000), width=1),
        torch.cat([draw([5], number=i, width=1) for i in range(2000)]),
        torch.cat([draw([5], seed=i, width=1) for i in range(-1000, 1000)]),
    ],
    ids=["columns", "keys", "draws", "seeds"],
)
def test_standard_normal_along_each_argument(sample):
    flat = sample.flatten().numpy()
    assert stats.kstest(flat, "norm").pvalue > 1e-4
    assert stats.kstest(flat**2, stats.chi2(1).cdf).pvalue > 1e-4
    assert abs(stats.skew(flat)) < 5 * (6 / len(flat)) ** 0.5
    assert abs(stats.kurtosis(flat)) < 5 * (24 / len(flat)) ** 0.5


def test_unrelated_between_neighbours():
    z = draw(torch.arange(300))
    assert correlation_is_noise(z[:-1], z[1:])  # keys
    assert correlation_is_noise(z[:, :500], z[:, 500:])  # the two of a Box-Muller pair
    assert correlation_is_noise(z[:, :500] ** 2, z[:, 500:] ** 2)
    assert correlation_is_noise(z[:, :-1], z[:, 1:])  # neighbouring pairs
    assert correlation_is_noise(z, draw(torch.arange(300), number=1))
    assert correlation_is_noise(z, draw(torch.arange(300), seed=1))
    # A key must not act like a seed or a draw number.
    assert correlation_is_noise(draw([1], seed=0), draw([0], seed=1))
    assert correlation_is_noise(draw([1], number=0), draw([0], number=1))
    assert correlation_is_noise(draw([1], number=0, width=999), draw([0], number=0)[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_a_row_does_not_depend_on_its_batch(width, dtype):
    keys = torch.randperm(57) * 1_000_003 - 9
    whole = draw(keys, 7, 3, width, dtype)
    assert whole.dtype == dtype
    assert torch.equal(whole, draw(keys, 7, 3, width, dtype))
    assert torch.equal(whole, torch.cat([draw(keys[i : i + 1], 7, 3, width, dtype) for i in range(57)]))
    order = torch.randperm(57)
    assert torch.equal(whole[order], draw(keys[order], 7, 3, width, dtype))


def test_any_shape_and_extreme_arguments():
    noise = keyed_noise(torch.tensor([0, 2**62, -(2**63)]), -(10**30))
    z = noise(torch.empty(3, 4, 5), 10**6)
    assert z.shape == (3, 4, 5)
    assert torch.isfinite(z).all()
    assert keyed_noise(torch.empty(0, dtype=torch.long), 0)(torch.empty(0, 4), 0).shape == (0, 4)


def test_keyed_noise_names_what_does_not_fit():
    with pytest.raises(ValueError, match="2 keys"):
        keyed_noise(torch.arange(2), 0)(torch.empty(3, 4), 0)
    with pytest.raises(ValueError, match="float32"):
        keyed_noise(torch.zeros(2), 0)


def test_stream_noise_repeats_with_its_generator():
    x = torch.empty(5, 3, dtype=torch.float64)
    first = stream_noise(torch.Generator().manual_seed(1))
    again = stream_noise(torch.Generator().manual_seed(1))
    a, b = first(x, 0), first(x, 0)
    assert a.dtype == torch.float64
    assert not torch.equal(a, b)
    assert torch.equal(a, again(x, 0))
    assert torch.equal(b, again(x, 1))
    torch.manual_seed(3)
    c = stream_noise()(x, 0)
    torch.manual_seed(3)
    assert torch.equal(c, torch.randn(5, 3, dtype=torch.float64))


def test_zero_noise():
    assert torch.equal(zero_noise(torch.ones(2, 3), 4), torch.zeros(2, 3))
