"""Network parts that several models use."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from recbole_diffusion.diffusion.denoisers import activation_layer


def mlp(widths: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers of these widths, from input to output, with an activation between them; Xavier weights, biases 0."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        linear = nn.Linear(n_in, n_out)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation_layer(activation)]
    return nn.Sequential(*layers[:-1])
