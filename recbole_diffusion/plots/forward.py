"""Clean data dissolving into noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recbole_diffusion.diffusion.process import GaussianDiffusion
from recbole_diffusion.diffusion.samplers import time_grid
from recbole_diffusion.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_forward(
    x_0: Tensor, process: GaussianDiffusion, title: str, columns: str, shown: Sequence[int] | None = None, seed: int = 0
) -> Figure:
    """Draws x_t at several t as rows of a heat map, and beside it how much of x_0 each of them still holds.

    All rows share one eps, so that the eye follows the same noise as it grows.

    Args:
        x_0: ``[n]``, a user's row or an item's embedding.
        process: the diffusion.
        title: says model, data and settings.
        columns: what a column is, for the axis.
        shown: entries of x_0 to draw, in this order; None draws all.
        seed: of eps.
    """
    times = [t for t, _ in reversed(time_grid(process, min(8, process.n_steps)))]
    t = torch.tensor(times)
    clean = x_0.detach().float().cpu().expand(len(t), -1)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed)).expand(len(t), -1)
    process = GaussianDiffusion(process.betas.cpu())
    rows = torch.cat([clean[:1], process.q_sample(clean, t, eps)])
    kept = torch.nn.functional.cosine_similarity(rows, clean[:1])
    labels = ["$x_0$", *(f"t = {step}" for step in times)]
    figure, axes = new_figure(title, 1, 2, 11, 4)
    heat, bars = axes[0]
    drawn = rows if shown is None else rows[:, list(shown)]
    limit = float(drawn.abs().max())
    image = heat.imshow(drawn.tolist(), aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    heat.set(xlabel=columns, yticks=range(len(labels)), yticklabels=labels)
    heat.grid(False)
    figure.colorbar(image, ax=heat)
    bars.barh(range(len(labels)), kept.tolist())
    bars.invert_yaxis()
    bars.set(xlabel="cosine of $x_t$ and $x_0$", xlim=(min(0, float(kept.min())), 1))
    bars.set(yticks=range(len(labels)), yticklabels=labels)
    return figure
