"""Classifier-free guidance against its formula."""

import math

import pytest
import torch

from recbole_diffusion.diffusion import ConditionedDenoiser, classifier_free


@pytest.fixture
def parts():
    torch.manual_seed(1)
    network = ConditionedDenoiser(6, "mlp2").double()
    x, cond, uncond = (torch.randn(n, 6, dtype=torch.float64) for n in (5, 5, 1))
    return network, x, cond, uncond, torch.tensor([0, 3, 3, 8, 1])


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 10.0])
@pytest.mark.parametrize("flat", [False, True])
def test_the_formula_in_one_batched_call(parts, scale, flat):
    network, x, cond, uncond, t = parts
    sizes = []

    def counting(x, cond, t):
        sizes.append(len(x))
        return network(x, cond, t)

    guided = classifier_free(counting, cond, uncond[0] if flat else uncond, scale)(x, t)
    expected = (1 + scale) * network(x, cond, t) - scale * network(x, uncond.repeat(5, 1), t)
    torch.testing.assert_close(guided, expected)
    assert sizes == [10]


def test_no_guidance_is_the_conditional_network_bitwise_in_one_small_call(parts):
    network, x, cond, uncond, t = parts
    sizes = []

    def counting(x, cond, t):
        sizes.append(len(x))
        return network(x, cond, t)

    assert torch.equal(classifier_free(counting, cond, uncond, 0.0)(x, t), network(x, cond, t))
    assert sizes == [5]


def test_a_row_does_not_depend_on_its_batch(parts):
    network, x, cond, uncond, t = parts
    whole = classifier_free(network, cond, uncond, 2.0)(x, t)
    row = classifier_free(network, cond[3:4], uncond, 2.0)(x[3:4], t[3:4])
    torch.testing.assert_close(row, whole[3:4])


def test_bad_arguments_are_named(parts):
    network, _, cond, uncond, _ = parts
    for scale in (math.nan, math.inf):
        with pytest.raises(ValueError, match="scale"):
            classifier_free(network, cond, uncond, scale)
    with pytest.raises(ValueError, match=r"\(2, 6\)"):
        classifier_free(network, cond, uncond.repeat(2, 1), 1.0)
