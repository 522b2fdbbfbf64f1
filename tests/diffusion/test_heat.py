"""Heat on a graph against its eigenvectors, and BSPM's polynomial against Runge-Kutta by tableau."""

import pytest
import torch

from recbole_diffusion.diffusion import GraphHeat, deferred, sharpen, stepwise, time_grid


@pytest.fixture
def graph(rng):
    """A symmetric matrix with known eigenvectors and eigenvalues in [0, 1]."""
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng, dtype=torch.float64))
    values = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.1, 0.0], dtype=torch.float64)
    return basis * values @ basis.T, basis, values


def rows(rng, n=4):
    return torch.randn(n, 6, generator=rng, dtype=torch.float64)


def test_forward_scales_each_eigenvector(graph, rng):
    matrix, basis, values = graph
    process = GraphHeat(lambda x: x @ matrix, 3, strength=1.5)
    x_0 = rows(rng, 3)
    x_t = process.q_sample(x_0, torch.arange(3))
    for t in range(3):
        scale = 1 - 1.5 * (t + 1) / 3 * (1 - values)
        torch.testing.assert_close(x_t[t] @ basis, x_0[t] @ basis * scale)
    torch.testing.assert_close(process.prior(x_0)[2], x_t[2])
    assert torch.equal(process.q_sample(x_0, torch.arange(3), x_0 @ matrix), x_t)


def test_forward_is_one_euler_step_of_the_heat_equation(graph, rng):
    """dx/dtau = alpha (x A - x), whose solution scales an eigenvector by exp(-alpha tau (1 - w)): error of second order."""
    matrix, basis, values = graph
    x_0 = rows(rng, 1)
    errors = []
    for strength in (0.02, 0.01):
        exact = (x_0 @ basis * torch.exp(-strength * (1 - values))) @ basis.T
        errors.append(float((GraphHeat(lambda x: x @ matrix, 1, strength).prior(x_0) - exact).norm()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


def test_a_step_is_written_as_in_the_paper(graph, rng):
    """z := F_s(x0_hat) + decay^(t-s) (z - F_t(x0_hat)), F applied by itself."""
    matrix, _, _ = graph
    process = GraphHeat(lambda x: x @ matrix, 5, strength=1.2, decay=0.7)
    x0_hat, z = rows(rng), rows(rng)

    def F(t):
        return x0_hat + 1.2 * (t + 1) / 5 * (x0_hat @ matrix - x0_hat)

    for t, s in [(4, 3), (4, 0), (2, -1), (0, -1)]:
        torch.testing.assert_close(process.step(x0_hat, z, t, s), F(s) + 0.7 ** (t - s) * (z - F(t)))


def test_a_perfect_denoiser_leads_back(graph, rng):
    matrix, _, _ = graph
    x_0 = rows(rng)
    for decay in (0.0, 0.5, 1.0):
        process = GraphHeat(lambda x: x @ matrix, 4, decay=decay)
        for steps in (1, 2, 4):
            x = stepwise(lambda x, t: x_0, process.prior(x_0), process, time_grid(process, steps))
            torch.testing.assert_close(x, x_0)


def test_with_a_fixed_estimate_the_deviation_decays(graph, rng):
    """A denoiser that always says y: after T steps x = y + decay^T (F_T(x_0) - F_T(y)), however the steps are cut."""
    matrix, _, _ = graph
    process = GraphHeat(lambda x: x @ matrix, 6, decay=0.9)
    x_0, y = rows(rng), rows(rng)
    expected = y + 0.9**6 * (process.prior(x_0) - process.prior(y))
    for steps in (1, 3, 6):
        x = stepwise(lambda x, t: y, process.prior(x_0), process, time_grid(process, steps))
        torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_products_that_are_deferred_change_nothing(steps, graph, rng):
    """A denoiser of z W, once with z itself and once with z = p + q A in two parts, for a matrix that is not symmetric."""
    matrix = graph[0] + torch.triu(graph[0])
    W, x_0 = torch.randn(6, 2, generator=rng, dtype=torch.float64), rows(rng)

    def D(code, t):
        return torch.tanh(code @ W.T + t[:, None])

    whole, lazy = (GraphHeat(smooth, 5, strength=1.2, decay=0.7) for smooth in (lambda x: x @ matrix, deferred))
    expected = stepwise(lambda z, t: D(z @ W, t), whole.prior(x_0), whole, time_grid(whole, steps))
    in_parts = lambda x: torch.stack([x, torch.zeros_like(x)], 1)  # noqa: E731
    codes = torch.cat([W, matrix @ W])
    z = stepwise(lambda z, t: in_parts(D(z.flatten(1) @ codes, t)), in_parts(whole.prior(x_0)), lazy, time_grid(lazy, steps))
    torch.testing.assert_close(z[:, 0] + z[:, 1] @ matrix, expected)


# --- sharpening ----------------------------------------------------------------------------------------------------


def runge_kutta(x, field, h, stages):
    """A Runge-Kutta step by its tableau: Euler, the classical method, the 3/8 rule."""
    k = []
    for row in stages[:-1]:
        k.append(field(x + h * sum(a * v for a, v in zip(row, k, strict=True))))
    return x + h * sum(b * v for b, v in zip(stages[-1], k, strict=True))


TABLEAUS = {
    "euler": (1, [[], [1]]),
    "midpoint": (2, [[], [1 / 2], [0, 1]]),
    "classical": (4, [[], [1 / 2], [0, 1 / 2], [0, 0, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6]]),
    "three-eighths": (4, [[], [1 / 3], [-1 / 3, 1], [1, -1, 1], [1 / 8, 3 / 8, 3 / 8, 1 / 8]]),
}


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize(("time", "n_steps"), [(2.5, 1), (2.2, 2), (1.0, 5)])
def test_the_polynomial_is_the_runge_kutta_loop(method, time, n_steps, graph, rng):
    matrix, _, _ = graph
    order, stages = TABLEAUS[method]
    x = expected = rows(rng)
    for _ in range(n_steps):
        expected = runge_kutta(expected, lambda y: -y @ matrix, time / n_steps, stages)
    torch.testing.assert_close(sharpen(x, lambda y: y @ matrix, time, n_steps, order), expected)


def test_the_polynomial_of_eigenvalues_gives_the_same(graph, rng):
    matrix, basis, values = graph
    x = rows(rng)
    scale = sharpen(torch.ones_like(values), lambda y: y * values, 2.5, 1, 4)
    # The figure for w = 1 by hand: 1 - 2.5 + 3.125 - 2.604167 + 1.627604
    assert float(scale[0]) == pytest.approx(0.6484375, rel=1e-12)
    torch.testing.assert_close((x @ basis * scale) @ basis.T, sharpen(x, lambda y: y @ matrix, 2.5, 1, 4))


def test_many_steps_solve_the_equation(graph):
    _, _, values = graph
    ones = torch.ones_like(values)
    errors = [
        float((sharpen(ones, lambda y: y * values, 1.0, n, 4) - torch.exp(-values)).abs().max()) for n in (4, 8, 16)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.2) and errors[1] / errors[2] == pytest.approx(16, rel=0.1)


def test_no_time_changes_nothing(rng):
    x = rows(rng)
    assert torch.equal(sharpen(x, lambda y: y, 0.0), x)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: GraphHeat(lambda x: x, 0), "n_steps=0"),
        (lambda: GraphHeat(lambda x: x, 3, strength=-1.0), "strength=-1"),
        (lambda: GraphHeat(lambda x: x, 3, decay=1.5), r"decay=1\.5"),
        (lambda: sharpen(torch.ones(1, 1), lambda x: x, -1.0), "time=-1"),
        (lambda: sharpen(torch.ones(1, 1), lambda x: x, 1.0, 0), "n_steps=0"),
        (lambda: sharpen(torch.ones(1, 1), lambda x: x, 1.0, 1, 5), "order=5"),
        (lambda: time_grid(GraphHeat(lambda x: x, 3), 2, "log-snr"), "needs a Gaussian diffusion"),
    ],
)
def test_bad_arguments_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
