"""The best items of a large catalogue, without scores of all of it."""

from __future__ import annotations

import torch


def chunked_topk(
    queries: torch.Tensor, table: torch.Tensor, k: int, chunk: int = 65536
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``k`` rows of a table with the largest inner product with each query.

    Memory: scores of one chunk, ``[B, chunk]``, instead of ``[B, n]``.

    Args:
        queries: ``[B, d]``.
        table: ``[n, d]``.
        k: in ``[1, n]``.
        chunk: rows of the table scored at a time.

    Returns:
        Scores ``[B, k]``, best first, and row numbers ``[B, k]``.

    Raises:
        ValueError: ``k`` outside its range.
    """
    if not 1 <= k <= len(table):
        raise ValueError(f"k = {k!r}: must be in [1, {len(table)}], the number of items")
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(table), chunk):
        scores = queries @ table[start : start + chunk].T
        values, columns = scores.topk(min(k, scores.shape[1]))
        best, rows = torch.cat([best, values], 1), torch.cat([rows, columns + start], 1)
        best, order = best.topk(min(k, best.shape[1]))
        rows = rows.gather(1, order)
    return best, rows
