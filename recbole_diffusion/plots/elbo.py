"""The likelihood terms of a trained model by t."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from recbole_diffusion.analysis.elbo import number
from recbole_diffusion.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_elbo(result: dict[str, Any]) -> Figure:
    """Draws L_t against t, with two standard errors on either side.

    Args:
        result: what :func:`recbole_diffusion.analysis.elbo.elbo_of` returned.
    """
    total = f"total {number(result['total']['mean'])} {result['unit']}"
    figure, axes = new_figure(f"{result['model']} on {result['dataset']}: {total}")
    axis = axes[0, 0]
    reconstruction, *posterior, prior = result["by_t"]
    t, mean = [term["t"] for term in posterior], [term["mean"] for term in posterior]
    error = [2 * (term["se"] or 0.0) for term in posterior]
    axis.errorbar(t, mean, error, marker="." if len(t) <= 60 else "", label="$L_t$, posterior KL")
    for name, term, marker in (("$L_0$, reconstruction", reconstruction, "o"), ("$L_T$, prior KL", prior, "s")):
        # On a logarithmic axis a negative L_0 has a place in the legend only.
        shown = term["mean"] if term["mean"] > 0 else math.nan
        axis.plot(term["t"], shown, marker, label=f"{name}: {number(term['mean'])}")
    axis.set(xlabel="t", ylabel=result["unit"], yscale="log")
    axis.legend()
    return figure
