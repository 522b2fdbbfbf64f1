"""Classifier-free guidance (Ho & Salimans 2022; DreamRec, Algorithm 2)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recbole_diffusion.diffusion.process import Network

ConditionalNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t [B, d], cond [B, c], t [B]) -> output [B, d]."""


def classifier_free(network: ConditionalNetwork, cond: Tensor, uncond: Tensor, scale: float) -> Network:
    """The guided network f~(x, t) = (1 + w) f(x, c, t) - w f(x, Phi, t).

    Both evaluations go through the network as one batch of 2B rows. With w = 0 the second one would be multiplied by
    zero: it is left out, and the result is the conditional network's, bit for bit. The formula is linear in the output,
    so it guides eps- and v-networks as well: hand the result to ``process.denoiser(..., prediction)``.

    Args:
        network: the conditional network; its rows must not depend on one another.
        cond: c, [B, c].
        uncond: Phi, [c] or [1, c].
        scale: w, finite; 0 is no guidance, -1 the unconditional network.

    Returns:
        (x_t [B, d], t [B]) -> guided output [B, d].

    Raises:
        ValueError: a scale that is not finite, or an ``uncond`` of another shape.
    """
    if not math.isfinite(scale):
        raise ValueError(f"guidance scale={scale!r} must be finite")
    if uncond.shape not in (cond.shape[1:], (1, *cond.shape[1:])):
        raise ValueError(
            f"uncond has shape {tuple(uncond.shape)}; for cond {tuple(cond.shape)} it must be {tuple(cond.shape[1:])} "
            f"or {(1, *cond.shape[1:])}"
        )
    if scale == 0:
        return lambda x_t, t: network(x_t, cond, t)
    both = torch.cat([cond, uncond.expand_as(cond)])

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = network(torch.cat([x_t, x_t]), both, torch.cat([t, t])).chunk(2)
        return (1.0 + scale) * conditional - scale * unconditional

    return guided
