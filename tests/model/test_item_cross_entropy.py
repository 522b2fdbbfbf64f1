import pytest
import torch
from torch.nn.functional import cross_entropy

from recbole_diffusion.model import item_cross_entropy as module
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy


def _drawn(n, dtype=torch.float64):
    torch.manual_seed(0)
    query = torch.randn(n, 5, dtype=dtype, requires_grad=True)
    items = torch.randn(11, 5, dtype=dtype, requires_grad=True)
    return query, items, torch.randint(11, (n,))


def rows_at_a_time(rows, monkeypatch):
    monkeypatch.setitem(module._SCORES, "cpu", 11 * rows)
    monkeypatch.setattr(module, "_LEAST_ROWS", 1)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradients_are_torchs(rows, weighted, monkeypatch):
    rows_at_a_time(rows, monkeypatch)
    query, items, target = _drawn(7)
    weight = torch.rand(7, dtype=torch.float64) if weighted else None
    rowwise = cross_entropy(query @ items.T, target, reduction="none")
    expected = (rowwise * weight).sum() if weighted else rowwise.mean()
    actual = item_cross_entropy(query, items, target, weight)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(3 * actual, (query, items)), torch.autograd.grad(3 * expected, (query, items))
    )


@pytest.mark.parametrize("rows", [2, 100])
def test_a_known_term_and_its_multiple(rows, monkeypatch):
    rows_at_a_time(rows, monkeypatch)
    query, items, target = _drawn(7)
    table, constants = torch.randn(2, 7, 11, dtype=torch.float64)
    multiple = torch.randn(7, dtype=torch.float64, requires_grad=True)

    def term(rows, scores):
        scores += constants[rows]
        return table[rows]

    expected = cross_entropy(query @ items.T + multiple[:, None] * table + constants, target)
    actual = item_cross_entropy(query, items, target, term=term, multiple=multiple)
    torch.testing.assert_close(actual, expected)
    of = (query, items, multiple)
    torch.testing.assert_close(torch.autograd.grad(3 * actual, of), torch.autograd.grad(3 * expected, of))
    without = item_cross_entropy(query, items, target, term=term)
    torch.testing.assert_close(without, cross_entropy(query @ items.T + constants, target))


def test_frozen_items_get_no_gradient():
    query, items, target = _drawn(4)
    expected = torch.autograd.grad(cross_entropy(query @ items.detach().T, target), query)
    torch.testing.assert_close(torch.autograd.grad(item_cross_entropy(query, items.detach(), target), query), expected)
    with torch.no_grad():
        torch.testing.assert_close(item_cross_entropy(query, items, target), cross_entropy(query @ items.T, target))


def test_large_scores_stay_finite():
    query, items, target = _drawn(4, torch.float32)
    loss = item_cross_entropy(1e4 * query, items, target)
    torch.testing.assert_close(loss, cross_entropy(1e4 * query @ items.T, target))
    assert torch.isfinite(torch.autograd.grad(loss, items)[0]).all()


@pytest.mark.parametrize("of_query", [torch.bfloat16, torch.float32])
def test_under_autocast_products_have_the_items_precision(of_query):
    query, items, target = _drawn(4, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = item_cross_entropy(query.to(of_query), items, target)
        actual = torch.autograd.grad(loss, (query, items))
    expected = cross_entropy(query.to(of_query).float() @ items.T, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, (query, items)))


def test_no_targets_cost_nothing():
    query, items, target = _drawn(0)
    loss = item_cross_entropy(query, items, target)
    assert loss == 0
    assert not torch.autograd.grad(loss, items)[0].any()
