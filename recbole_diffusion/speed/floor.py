"""The floor: the matrix products that must be done, counted from the shapes and run bare.

A product of [m, k] and [k, n] is written (m, k, n).
"""

from __future__ import annotations

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

    Rows of the operands and of the result start at multiples of 64 bytes. All products share memory for the largest one.
    """
    first = _matrices([(m, k) for m, k, _ in products], device)
    second = _matrices([(k, n) for _, k, n in products], device)
    result = _matrices([(m, n) for m, _, n in products], device)

    def run() -> None:
        for a, b, out in zip(first, second, result, strict=True):
            torch.mm(a, b, out=out)

    return Variant(name, run, work(products), memory=False)


def _matrices(shapes: Sequence[tuple[int, int]], device: str) -> list[torch.Tensor]:
    widths = [math.ceil(columns / 16) * 16 for _, columns in shapes]
    memory = torch.rand(max(rows * width for (rows, _), width in zip(shapes, widths, strict=True)), device=device)
    return [memory.as_strided(shape, (width, 1)) for shape, width in zip(shapes, widths, strict=True)]


def with_gradients(forward: Sequence[Product], data: Sequence[Product] = ()) -> list[Product]:
    """Forward and backward: ``forward`` has gradients of both operands, ``data`` of the right one, the weights, alone."""
    both = [*data, *forward]
    return [*both, *((k, m, n) for m, k, n in both), *((m, n, k) for m, k, n in forward)]


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
    """Forward and backward."""
    first, *others = network(batch, n_items, hidden)
    return with_gradients(others, data=[first])


# -------------------------------------------------------------------------------------------------------- DreamRec


def one_shot(batch: int, dim: int) -> list[Product]:
    """The condition to the mean, and the noise through the factor of the covariance."""
    return [(batch, dim, dim)] * 2


def composed_chain(dim: int, steps: int) -> list[Product]:
    """T steps of two products each, once per state of the weights; counted here as if they were of float32."""
    return [(dim, dim, dim)] * 2 * steps


def denoiser(batch: int, dim: int, distinct: int) -> list[Product]:
    """The layer over [x, c, tau]: x and c row by row, tau and its two layers once for each distinct step.

    The first two products are those whose input is data.
    """
    return [(distinct, dim, 2 * dim), (batch, dim, dim), (distinct, 2 * dim, dim), (distinct, dim, dim), (batch, dim, dim)]


def loop(batch: int, dim: int, steps: int) -> list[Product]:
    """T steps of two calls of the denoiser, each for one step."""
    return denoiser(batch, dim, 1) * 2 * steps


def encoder(batch: int, dim: int, inner: int) -> list[Product]:
    """A Transformer layer that is read out at one position: query, key, value and output once per history, and the
    feed-forward layer. The products within a history, of L x d, are left out: they are no matrix products."""
    return [(batch, dim, dim)] * 4 + [(batch, dim, inner), (batch, inner, dim)]


def dreamrec_step(encoded: Sequence[Product], targets: int, dim: int, steps: int) -> list[Product]:
    """Encoder (its products) and network, forward and backward, with as many distinct steps as are expected."""
    distinct = round(steps * (1 - (1 - 1 / steps) ** targets))
    time, x, *others = denoiser(targets, dim, distinct)
    return with_gradients([*encoded, *others], data=[time, x])


# ------------------------------------------------------------------------------------------------ sequential models


def transformer(positions: int, read_out: int, dim: int, inner: int, layers: int) -> list[Product]:
    """Transformer layers at all positions, the last one only where it is read out."""
    return encoder(positions, dim, inner) * (layers - 1) + encoder(read_out, dim, inner)


def recurrent(lengths: torch.Tensor, dim: int, hidden: int) -> list[Product]:
    """A GRU over histories of these lengths: the states step by step, without padding, then the inputs, all at once."""
    active = (lengths[:, None] > torch.arange(int(lengths.max()))).sum(0).tolist()
    return [*((histories, hidden, 3 * hidden) for histories in active), (sum(active), dim, 3 * hidden)]
