"""A noise schedule: its variances, what remains of the signal, and how the loss weighs each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recbole_diffusion.diffusion.process import GaussianDiffusion
from recbole_diffusion.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_schedule(process: GaussianDiffusion, title: str) -> Figure:
    """Draws beta_t, abar_t, the signal-to-noise ratio and DiffRec's loss weight against t.

    The weight is 1/2 (SNR_{t-1} - SNR_t), that of the squared error of x0_hat in the ELBO (DiffRec, Eq. 11); it is infinite
    at t = 0 (Eq. 12 takes its place there) and left out.
    """
    t = torch.arange(process.n_steps)
    snr = process.snr(t)
    panels = (
        (r"$\beta_t$", t, process.betas, "linear"),
        (r"$\bar\alpha_t$, signal left", t, process.alphas_cumprod, "linear"),
        (r"SNR$_t$ = $\bar\alpha_t/(1-\bar\alpha_t)$", t, snr, "log"),
        (r"weight $\frac{1}{2}$(SNR$_{t-1}$ - SNR$_t$)", t[1:], (snr[:-1] - snr[1:]) / 2, "log"),
    )
    figure, axes = new_figure(title, 2, 2, 8, 5.5)
    for axis, (label, steps, values, scale) in zip(axes.flat, panels, strict=True):
        axis.plot(steps.tolist(), values.tolist(), marker="." if process.n_steps <= 60 else "")
        axis.set(title=label, xlabel="t", yscale=scale)
    return figure
