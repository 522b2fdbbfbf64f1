"""The floor: the matrix products that must be done, counted from the shapes and run bare.

A product of [m, k] and [k, n] is written (m, k, n).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch

from recbole_diffusion.speed.measure import Variant

Product = tuple[int, int, int]


def work(products: Iterable[Product]) -> tuple[float, float]:
    """Operations, 2 m k n a product, and bytes, 4 (m k + k n + m n): operands are read once, results written once."""
    operations, numbers = 0, 0
    for m, k, n in products:
        operations += 2 * m * k * n
        numbers += m * k + k * n + m * n
    return float(operations), 4.0 * numbers


def bare(name: str, products: Sequence[Product], device: str) -> Variant:
    """A variant that runs the products and nothing else: into memory that is there, in the layout that the BLAS likes best.

    Rows of the operands and of the result start at multiples of 64 bytes.
    """
    matrix = functools.cache(lambda rows, columns: _aligned(rows, columns, device))
    result = functools.cache(lambda rows, columns: _aligned(rows, columns, device))

    def run() -> None:
        for m, k, n in products:
            torch.mm(matrix(m, k), matrix(k, n), out=result(m, n))

    run()  # takes the memory
    return Variant(name, run, work(products), memory=False)


def _aligned(rows: int, columns: int, device: str) -> torch.Tensor:
    return torch.rand(rows, math.ceil(columns / 16) * 16, device=device)[:, :columns]


# --------------------------------------------------------------------------------------------------------- DiffRec


def network(batch: int, n_items: int, hidden: Sequence[int]) -> list[Product]:
    """One pass of DiffRec's network, items to items."""
    return [(batch, a, b) for a, b in pairwise([n_items, *hidden, n_items])]


def hidden_chain(batch: int, n_items: int, hidden: Sequence[int], steps: int) -> list[Product]:
    """Scoring in hidden space: T times the inner layers, T - 1 times K, and the last layer once."""
    inner = [(batch, a, b) for a, b in pairwise(hidden)]
    back = (batch, hidden[-1], hidden[0])
    return [*(inner + [back]) * (steps - 1), *inner, (batch, hidden[-1], n_items)]


def composition(n_items: int, hidden: Sequence[int]) -> list[Product]:
    """K = W_1 W_out, once per state of the weights."""
    return [(hidden[0], n_items, hidden[-1])]


def training_step(batch: int, n_items: int, hidden: Sequence[int]) -> list[Product]:
    """Forward, gradients of the weights, and gradients of the activations, of which the input needs none."""
    forward = network(batch, n_items, hidden)
    weights = [(k, m, n) for m, k, n in forward]
    activations = [(m, n, k) for m, k, n in forward[1:]]
    return forward + weights + activations


# -------------------------------------------------------------------------------------------------------- DreamRec


def one_shot(batch: int, dim: int) -> list[Product]:
    """The condition to the mean, and the noise through the factor of the covariance."""
    return [(batch, dim, dim)] * 2


def loop(batch: int, dim: int, steps: int) -> list[Product]:
    """T steps of two calls: the time's two layers, then the layer over [x, c, tau]."""
    call = [(batch, dim, 2 * dim), (batch, 2 * dim, dim), (batch, 3 * dim, dim)]
    return call * 2 * steps


def encoder(batch: int, dim: int, inner: int) -> list[Product]:
    """A Transformer layer that is read out at one position: query, key, value and output once per history, and the
    feed-forward layer. The products within a history, of L x d, are left out: they are no matrix products."""
    return [(batch, dim, dim)] * 4 + [(batch, dim, inner), (batch, inner, dim)]


def dreamrec_step(batch: int, dim: int, inner: int) -> list[Product]:
    """Encoder and network forward; each product has two in the backward pass, one of which x_t does not need."""
    forward = encoder(batch, dim, inner) + loop(batch, dim, 1)[:3]
    return forward + [(k, m, n) for m, k, n in forward] + [(m, n, k) for m, k, n in forward]
