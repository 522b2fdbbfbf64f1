"""The networks against their definitions: one concatenation, one formula."""

import math

import pytest
import torch
from torch import nn

from recbole_diffusion.diffusion import ConditionedDenoiser, ItemMLP, activation_layer, sinusoidal_embedding
from recbole_diffusion.diffusion.denoisers import FastDropout

WIDTHS = [1, 2, 3, 4, 5, 10, 64, 65]


@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("order", ["cos-sin", "sin-cos"])
def test_sinusoidal_embedding_entry_by_entry(dim, order):
    times = [0, 1, 7, 499, 1999]
    result = sinusoidal_embedding(torch.tensor(times), dim, order, dtype=torch.float64)
    half = max(dim // 2, 1)
    for row, t in zip(result.tolist(), times, strict=True):
        divisor = half if order == "cos-sin" else max(half - 1, 1)
        angles = [t * math.exp(-math.log(10_000) * i / divisor) for i in range(half)]
        cosines, sines = [math.cos(a) for a in angles], [math.sin(a) for a in angles]
        expected = cosines + sines if order == "cos-sin" else sines + cosines
        assert row == pytest.approx((expected + [0.0])[:dim], abs=1e-9)


def test_sinusoidal_embedding_in_float32_is_close_to_float64():
    t = torch.arange(2000)
    exact = sinusoidal_embedding(t, 64, dtype=torch.float64)
    torch.testing.assert_close(sinusoidal_embedding(t, 64), exact.float(), rtol=0, atol=5e-4)
    assert sinusoidal_embedding(t, 64, dtype=torch.float16).dtype == torch.float16


def with_biases(network):
    """Biases start at 0, where a forgotten one would not show."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)


def as_one_layer(network, x, t):
    """DiffRec's network as the paper writes it: an MLP over the concatenation of x and the time embedding."""
    embedding = network.time_embed(sinusoidal_embedding(t, network.time_dim, dtype=x.dtype))
    h = torch.cat([x, embedding], dim=1)
    weight = torch.cat([network.input.weight.T, network.time_input.weight], dim=1)
    h = network.activation(nn.functional.linear(h, weight, network.input.bias))
    for layer in network.layers:
        h = network.activation(layer(h))
    return network.output(h)


@pytest.mark.parametrize("hidden", [[6], [6, 9], [4, 5, 3]])
@pytest.mark.parametrize("normalize", [False, True])
def test_item_mlp_is_one_mlp_over_the_concatenation(hidden, normalize, rng):
    network = ItemMLP(11, hidden, 5, normalize=normalize).double().eval()
    with_biases(network)
    x, t = torch.rand(7, 11, generator=rng, dtype=torch.float64), torch.arange(7)
    reference = as_one_layer(network, x / x.norm(dim=1, keepdim=True) if normalize else x, t)
    torch.testing.assert_close(network(x, t), reference)
    assert [layer.out_features for layer in (network.input, *network.layers)] == hidden
    torch.testing.assert_close(network(x[2:3], t[2:3]), network(x, t)[2:3])


def test_item_mlp_starts_xavier_normal():
    torch.manual_seed(0)
    network = ItemMLP(700, [300, 200], 100)
    for weights, fans in [
        (torch.cat([network.input.weight.T, network.time_input.weight], 1).detach(), 800 + 300),
        (network.layers[0].weight.detach(), 300 + 200),
        (network.output.weight.detach(), 200 + 700),
    ]:
        # The relative standard error of a standard deviation is 1/sqrt(2n).
        assert float(weights.std()) == pytest.approx((2 / fans) ** 0.5, rel=4.5 / (2 * weights.numel()) ** 0.5)
        assert abs(float(weights.mean())) < 4.5 * (2 / fans / weights.numel()) ** 0.5
    assert float(network.time_input.weight.detach().std()) == pytest.approx((2 / 1100) ** 0.5, rel=0.03)
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    assert len(biases) == 4
    assert not any(bias.any() for bias in biases)


def test_item_mlp_drops_inputs_in_training_only():
    torch.manual_seed(0)
    network = ItemMLP(400, [8], 4, dropout=0.5)
    x, t = torch.ones(1, 400), torch.zeros(1, dtype=torch.long)
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))
    assert torch.equal(network(torch.zeros(1, 400), t), network(torch.zeros(1, 400), t))


def test_an_empty_row_does_not_break_normalisation():
    network = ItemMLP(5, [3], 2, normalize=True).eval()
    assert torch.isfinite(network(torch.zeros(2, 5), torch.tensor([0, 1]))).all()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", torch.tanh),
        ("ReLU", torch.relu),
        ("sigmoid", torch.sigmoid),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("swish", lambda x: x * torch.sigmoid(x)),
        ("leakyrelu", lambda x: torch.where(x > 0, x, 0.01 * x)),
        ("elu", lambda x: torch.where(x > 0, x, torch.exp(x) - 1)),
        ("none", lambda x: x),
        ("identity", lambda x: x),
        (None, lambda x: x),
    ],
)
def test_activations(name, function):
    x = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(activation_layer(name)(x), function(x))
    network = ItemMLP(3, [2], 2, activation=name)
    assert network(torch.zeros(1, 3), torch.tensor([0])).shape == (1, 3)


@pytest.mark.parametrize("kind", ["mlp1", "mlp2"])
@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("rows", [1, 3])
def test_conditioned_denoiser_takes_any_width_and_batch(dim, kind, rows):
    network = ConditionedDenoiser(dim, kind)
    x, cond, t = torch.randn(3, dim), torch.randn(3, dim), torch.tensor([0, 5, 9])
    output = network(x, cond, t)
    assert output.shape == (3, dim)
    torch.testing.assert_close(network(x[:rows], cond[:rows], t[:rows]), output[:rows])
    output.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("kind", ["mlp1", "mlp2"])
@pytest.mark.parametrize("rows", [3, 40])
def test_conditioned_denoiser_is_layers_over_the_concatenation_also_where_steps_repeat(kind, rows, rng):
    """The paper's formula, computed row by row; 40 rows of 7 steps take the way over a table of all steps."""
    network = ConditionedDenoiser(5, kind, n_steps=7).double()
    x, cond = (torch.randn(rows, 5, generator=rng).double() for _ in range(2))
    t = torch.randint(7, (rows,), generator=rng)
    tau = network.time_net(sinusoidal_embedding(t, 5, "sin-cos", dtype=torch.float64))
    expected = network.net(torch.cat([x, cond, tau], 1))
    torch.testing.assert_close(network(x, cond, t), expected)
    torch.testing.assert_close(network.time_embedding(t), tau)
    parameters = list(network.parameters())
    ours = torch.autograd.grad(network(x, cond, t).square().sum(), parameters)
    for gradient, of_formula in zip(ours, torch.autograd.grad(expected.square().sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, of_formula)


def test_mlp1_is_the_sum_of_its_affine_parts():
    network = ConditionedDenoiser(5, "mlp1").double()
    x, cond, t = torch.randn(4, 5).double(), torch.randn(4, 5).double(), torch.arange(4)
    A, B, C, b = network.affine_parts()
    tau = network.time_embedding(t)
    torch.testing.assert_close(x @ A.T + cond @ B.T + tau @ C.T + b, network(x, cond, t))
    torch.testing.assert_close(x @ A.T + cond @ B.T + network.time_shift(t), network(x, cond, t))
    assert network.is_affine


def test_mlp2_says_that_it_is_not_affine():
    network = ConditionedDenoiser(5, "mlp2")
    assert not network.is_affine
    with pytest.raises(ValueError, match="mlp2"):
        network.affine_parts()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ItemMLP(0, [3], 2), "n_items=0"),
        (lambda: ItemMLP(3, [], 2), r"hidden=\[\]"),
        (lambda: ItemMLP(3, [2, 0], 2), "hidden width=0"),
        (lambda: ItemMLP(3, [2], 0), "time_dim=0"),
        (lambda: ItemMLP(3, [2], 2, dropout=1.0), "dropout=1.0"),
        (lambda: ItemMLP(3, [2], 2, activation="tahn"), "'tahn'"),
        (lambda: ConditionedDenoiser(0), "dim=0"),
        (lambda: ConditionedDenoiser(3, "mlp3"), "'mlp3'"),
        (lambda: sinusoidal_embedding(torch.zeros(1), 0), "dim=0"),
        (lambda: sinusoidal_embedding(torch.zeros(1), 4, "sincos"), "'sincos'"),
    ],
)
def test_values_outside_their_range_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    dropout, x = FastDropout(p), torch.ones(301, 999)
    y = dropout(x)
    kept = y[y != 0]
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(1 - len(kept) / x.numel() - p) < 4 * spread
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-4, atol=0)
    # Neither neighbours nor rows repeat one another.
    dropped = (y == 0).double() - p
    for a, b in ((dropped[:, 1:], dropped[:, :-1]), (dropped[1:], dropped[:-1]), (dropped[:, 4:], dropped[:, :-4])):
        assert abs(float((a * b).mean())) < 4 * p * (1 - p) / a.numel() ** 0.5
    assert torch.equal(dropout.eval()(x), x)


def test_the_layout_of_the_input_changes_nothing():
    torch.manual_seed(0)
    network = ItemMLP(11, [6, 4], 5, dropout=0.0).double()
    x, t = torch.rand(7, 11, dtype=torch.float64), torch.arange(7)
    torch.testing.assert_close(network(x.T.contiguous().T, t), network(x, t))
