"""DiffRec's hidden-space chain against the loop over items: the same scores, with and without noise."""

import pytest
import torch

from recbole_diffusion.diffusion import (
    PREDICTIONS,
    ConditionedDenoiser,
    GaussianDiffusion,
    HiddenChain,
    ItemMLP,
    ancestral,
    keyed_noise,
    make_betas,
    stream_noise,
    time_grid,
)

# torch warns once that sparse CSR tensors are in beta.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR")

ITEMS = 30
HIDDEN = [[8], [5, 9], [7, 4, 6]]


def make_network(hidden, dtype=torch.float64):
    network = ItemMLP(ITEMS, hidden, 6).to(dtype).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # they start at 0, where a forgotten one would not show
            torch.nn.init.normal_(parameter)
    return network


@pytest.fixture(params=HIDDEN, ids=str)
def network(request):
    return make_network(request.param)


def histories(rows=6, dtype=torch.float64):
    """Sparse rows, an empty one and one of weights that are not 1 among them."""
    x = (torch.rand(rows, ITEMS) < 0.2).to(dtype)
    x[1] = 0
    x[2] *= torch.rand(ITEMS).to(dtype)
    return x


@torch.no_grad()
def loop(network, process, prediction, x_0, t_prime=0, noise=None, sampling_noise=False):
    """DiffRec's Algorithm 2 over items."""
    x = x_0
    if t_prime > 0:
        x = process.q_sample(x_0, torch.full((len(x_0),), t_prime - 1), noise(x_0, 0))
    step_noise = noise if sampling_noise else None
    return ancestral(process.denoiser(network, prediction), x, process, time_grid(process), noise=step_noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_scores_are_the_loops(network, process, prediction):
    x_0 = histories()
    expected = loop(network, process, prediction, x_0)
    scores = HiddenChain(network, process, prediction).scores(x_0.to_sparse_csr())
    torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_scores_in_float32_agree_to_1e_5_at_diffrecs_range(steps, hidden):
    process = GaussianDiffusion(make_betas("linear-var", steps, 2.5e-5, 5e-5, first_beta=1e-5))
    network, x_0 = make_network(hidden, torch.float32), histories(dtype=torch.float32)
    scores = HiddenChain(network, process).scores(x_0.to_sparse_csr())
    torch.testing.assert_close(scores, loop(network, process, "x0", x_0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("t_prime", [0, 1, "T"])
@pytest.mark.parametrize("sampling_noise", [False, True])
def test_noise_moves_the_scores_as_in_the_loop(network, process, t_prime, sampling_noise):
    """Give the hidden chain the very noise that the loop's z becomes after the first layer: R^-1 W_1 z."""
    t_prime = process.n_steps if t_prime == "T" else t_prime
    chain, x_0 = HiddenChain(network, process), histories()
    item_noise = keyed_noise(torch.arange(len(x_0)), 3)
    W_1 = network.input.weight.detach().T
    values, vectors = torch.linalg.eigh(W_1 @ W_1.T)
    whiten = vectors / values.sqrt() @ vectors.T

    def hidden_noise(h, i):
        return item_noise(x_0, i) @ W_1.T @ whiten

    arguments = {"t_prime": t_prime, "sampling_noise": sampling_noise}
    scores = chain.scores(x_0.to_sparse_csr(), noise=hidden_noise, **arguments)
    expected = loop(network, process, "x0", x_0, noise=item_noise, **arguments)
    torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-9)
    if t_prime or (sampling_noise and process.n_steps > 1):
        assert not torch.allclose(scores, loop(network, process, "x0", x_0), rtol=1e-6)


def test_noise_has_the_loops_moments(rng):
    """With the chain's own noise, over many draws: the first three moments of each score."""
    process, n = GaussianDiffusion(make_betas("linear", 6, 0.05, 0.5)), 20_000
    network = make_network([5, 9])
    x_0 = histories(3)[2:].expand(n, -1)
    crow, col = torch.arange(n + 1) * int((x_0[0] != 0).sum()), x_0[0].nonzero().flatten().repeat(n)
    arguments = {"t_prime": 6, "sampling_noise": True, "noise": stream_noise(rng)}
    scores = HiddenChain(network, process).scores((crow, col, x_0[x_0 != 0]), **arguments)
    expected = loop(network, process, "x0", x_0, **arguments)
    # Both are estimates: the standard errors of their difference, from the samples themselves.
    error = ((scores.var(0) + expected.var(0)) / n).sqrt()
    assert (((scores.mean(0) - expected.mean(0)) / error).abs() < 4.5).all()
    for power in (2, 3):
        a, b = ((sample - expected.mean(0)) ** power for sample in (scores, expected))
        error = ((a.var(0) + b.var(0)) / n).sqrt()
        assert (((a.mean(0) - b.mean(0)) / error).abs() < 4.5).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_dense_rows_score_as_sparse_ones_do(network, process, prediction):
    chain, x_0 = HiddenChain(network, process, prediction), histories()
    kept = x_0.clone()
    torch.testing.assert_close(chain.scores(x_0), chain.scores(x_0.to_sparse_csr()))
    assert torch.equal(x_0, kept)


def test_any_sparse_form_and_output(network):
    process, x_0 = GaussianDiffusion(make_betas("linear", 5)), histories()
    chain, csr = HiddenChain(network, process), x_0.to_sparse_csr()
    scores = chain.scores(csr)
    parts = (csr.crow_indices().int(), csr.col_indices().int(), csr.values().float())
    torch.testing.assert_close(chain.scores(parts), scores, rtol=1e-6, atol=1e-7)
    buffer = torch.full((len(x_0), ITEMS + 1), -1.0, dtype=torch.float64)
    assert chain.scores(csr, out=buffer[:, 1:]).data_ptr() == buffer[:, 1:].data_ptr()
    torch.testing.assert_close(buffer[:, 1:], scores)
    assert (buffer[:, 0] == -1).all()
    scores.fill_(-torch.inf)  # the caller's own: RecBole's trainer writes into it
    assert torch.isfinite(chain.scores(csr)).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_batch_of_one_and_histories_that_are_all_empty(network, prediction):
    process, x_0 = GaussianDiffusion(make_betas("linear", 5)), histories()
    chain = HiddenChain(network, process, prediction)
    whole = chain.scores(x_0.to_sparse_csr())
    for i in range(len(x_0)):
        torch.testing.assert_close(chain.scores(x_0[i : i + 1].to_sparse_csr()), whole[i : i + 1])
    empty = torch.zeros(3, ITEMS, dtype=torch.float64)
    torch.testing.assert_close(chain.scores(empty.to_sparse_csr()), loop(network, process, prediction, empty))


def test_the_noise_comes_by_key_so_that_a_row_does_not_depend_on_its_batch(network):
    process, x_0, keys = GaussianDiffusion(make_betas("linear", 5)), histories(), torch.arange(6) + 40
    chain = HiddenChain(network, process)
    arguments = {"t_prime": 3, "sampling_noise": True}
    whole = chain.scores(x_0.to_sparse_csr(), noise=keyed_noise(keys, 1), **arguments)
    row = chain.scores(x_0[4:5].to_sparse_csr(), noise=keyed_noise(keys[4:5], 1), **arguments)
    torch.testing.assert_close(row, whole[4:5])


def test_no_intermediate_has_a_row_of_items_per_user(network):
    """The scores are the only [B, n_items] tensor that the operations put out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            outputs = result if isinstance(result, tuple | list) else [result]
            sizes.extend((str(func), o.numel()) for o in outputs if isinstance(o, torch.Tensor))
            return result

    rows = 200
    chain = HiddenChain(network, GaussianDiffusion(make_betas("linear", 5)))
    csr = histories(rows).to_sparse_csr()
    parts = (csr.crow_indices(), csr.col_indices(), csr.values())
    with Record():
        chain.scores(parts, t_prime=2, noise=stream_noise(), sampling_noise=True)
    large = [name for name, size in sizes if size >= rows * ITEMS]
    assert len(large) == 1, large


def test_where_it_holds():
    plain, normalised = ItemMLP(ITEMS, [5], 4), ItemMLP(ITEMS, [5], 4, normalize=True)
    assert HiddenChain.supports(plain)
    assert HiddenChain.supports(plain, "x0", noisy=True)
    assert HiddenChain.supports(plain, "eps")
    assert not HiddenChain.supports(plain, "eps", noisy=True)
    assert not HiddenChain.supports(normalised)
    assert not HiddenChain.supports(ConditionedDenoiser(4))


def test_what_does_not_hold_is_refused():
    process = GaussianDiffusion(make_betas("linear", 5))
    csr = histories(dtype=torch.float32).to_sparse_csr()
    with pytest.raises(ValueError, match="normalize=True"):
        HiddenChain(ItemMLP(ITEMS, [5], 4, normalize=True), process)
    with pytest.raises(ValueError, match="'mean'"):
        HiddenChain(ItemMLP(ITEMS, [5], 4), process, "mean")
    chain = HiddenChain(ItemMLP(ITEMS, [5], 4), process, "eps")
    with pytest.raises(ValueError, match="prediction='x0'"):
        chain.scores(csr, t_prime=2, noise=stream_noise())
    chain = HiddenChain(ItemMLP(ITEMS, [5], 4), process)
    for t_prime in (-1, 6):
        with pytest.raises(ValueError, match=rf"t_prime={t_prime} .*\[0, 5\]"):
            chain.scores(csr, t_prime=t_prime)
    with pytest.raises(ValueError, match="noise=None"):
        chain.scores(csr, t_prime=1)
    with pytest.raises(ValueError, match="noise=None"):
        chain.scores(csr, sampling_noise=True)
