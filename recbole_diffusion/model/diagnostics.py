"""Numbers that say what went wrong with a trained model; they stand under ``diagnostics`` in the record."""

from __future__ import annotations

import torch

SAMPLE = 256  # training histories, or users, that two ways to score are compared on


def collapse(embeddings: torch.Tensor) -> dict[str, float]:
    """How far embeddings ``[n, d]`` have shrunk to a point or a line, from their directions and their lengths.

    Returns:
        ``effective_rank``: exp of the entropy of the normalised singular values of the unit vectors (Roy and Vetterli,
        EUSIPCO 2007), from 1 to d. ``mean_cosine``: over all pairs of different rows; 0 for unrelated directions, 1 for
        a single one. ``median_norm``: median length.
    """
    embeddings = embeddings.double()
    n = len(embeddings)
    unit = torch.nn.functional.normalize(embeddings)
    share = torch.linalg.svdvals(unit)
    return {
        "effective_rank": float(torch.special.entr(share / share.sum()).sum().exp()),
        "mean_cosine": float((unit.sum(0).square().sum() - n) / (n * max(n - 1, 1))),
        "median_norm": float(embeddings.norm(dim=1).median()),
    }


def change_of_scores(one: torch.Tensor, whole: torch.Tensor) -> tuple[float, float]:
    """What one pass changes of the scores ``[B, n]`` of all steps: the largest difference, and how much of the top stays.

    Returns:
        The largest absolute difference of a score; the share of the ten best items that stay among the ten best.
    """
    k = min(10, one.shape[1])
    top = torch.zeros_like(whole, dtype=torch.bool).scatter_(1, whole.topk(k).indices, True)
    return float((one - whole).abs().max()), float(top.gather(1, one.topk(k).indices).float().mean())
