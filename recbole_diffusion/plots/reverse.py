"""DreamRec's generation: the item that takes shape in the space of all items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_diffusion.diffusion.guidance import classifier_free
from recbole_diffusion.diffusion.samplers import ancestral, time_grid
from recbole_diffusion.plots.figure import new_figure
from recbole_diffusion.settings import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 6  # steps at which the nearest item is named


@torch.no_grad()
def reverse_path(model: Any, interaction: Any) -> Tensor:
    """Every state of the generation for one history (DreamRec, Algorithm 2), noisiest first.

    Args:
        model: a trained DreamRec.
        interaction: RecBole ``Interaction`` with one history.

    Returns:
        ``[T + 1, d]``: x_{T-1} .. x_0 of the code's numbering, then the generated item. The noise is that of the model's
        own scores, whatever sampler computes them.

    Raises:
        SettingsError: a model that generates no item.
    """
    if not hasattr(model, "no_history"):
        raise SettingsError(f"{type(model).__name__} generates no item; DreamRec does")
    model.eval()
    cond = model.condition(interaction)
    noise = model.noise_of(interaction)
    network = classifier_free(model.network, cond, model.no_history, model.settings.guidance_scale)
    denoise, states = model.process.denoiser(network, model.settings.mean_type), []

    def recorded(x_t: Tensor, t: Tensor) -> Tensor:
        states.append(x_t[0])
        return denoise(x_t, t)

    generated = ancestral(recorded, noise(cond, 0), model.process, time_grid(model.process), noise=noise)
    return torch.stack([*states, generated[0]])


def plot_reverse(path: Tensor, items: Tensor, names: Sequence[str], history: Sequence[int], target: int, title: str) -> Figure:
    """Draws the path over a map of all items (their first two principal components) and names the nearest item on the way.

    Nearest is the item that the model would rank first: the largest inner product with the state.

    Args:
        path: of :func:`reverse_path`, ``[T + 1, d]``.
        items: embeddings ``[n, d]``, without padding.
        names: of the items, ``[n]``.
        history: rows of ``items`` that the user has had.
        target: row of ``items`` that came next.
        title: says model, data and settings.
    """
    items, path = items.detach().float().cpu(), path.detach().float().cpu()
    centre = items.mean(0)
    axes_of_map = torch.linalg.svd(items - centre, full_matrices=False).Vh[:2].T
    flat, way = (items - centre) @ axes_of_map, (path - centre) @ axes_of_map
    shown = torch.linspace(0, len(path) - 1, min(_NAMED, len(path))).round().long().tolist()
    nearest = (path[shown] @ items.T).argmax(1).tolist()
    figure, axes = new_figure(title, 1, 1, 10, 6.5)
    axis = axes[0, 0]
    axis.scatter(*flat.T.tolist(), s=4, color="lightgray", label="items")
    axis.scatter(*flat[list(history)].T.tolist(), s=18, color="tab:blue", label="history")
    axis.scatter(*flat[[target]].T.tolist(), s=120, marker="*", color="tab:green", zorder=4, label=f"next: {names[target]}")
    axis.plot(*way.T.tolist(), color="tab:red", linewidth=0.8, alpha=0.6)
    points = axis.scatter(*way[shown].T.tolist(), c=range(len(shown)), cmap="autumn_r", edgecolor="black", s=40, zorder=3)
    # Beside the axes, under the list of names: the path may end anywhere within.
    axis.legend(loc="lower left", bbox_to_anchor=(1.01, 0), fontsize=8)
    steps = len(path) - 1
    lines = []
    for number, (place, item) in enumerate(zip(shown, nearest, strict=True), start=1):
        when = "generated" if place == steps else f"t = {steps - 1 - place}"
        axis.annotate(str(number), way[place].tolist(), textcoords="offset points", xytext=(6, 6), fontsize=9, weight="bold")
        lines.append(f"{number}  {when}: {names[item]}")
    points.set_label("states")
    axis.text(1.02, 0.98, "nearest item\n" + "\n".join(lines), transform=axis.transAxes, va="top", fontsize=8)
    axis.set(xlabel="first principal component", ylabel="second")
    return figure
