"""What we are compared with: RecBole's DiffRec given our weights, and DreamRec's Algorithm 2 as it is printed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_diffusion.diffusion.denoisers import ItemMLP
from recbole_diffusion.diffusion.guidance import ConditionalNetwork
from recbole_diffusion.diffusion.noise import Noise


@torch.no_grad()
def copy_weights(network: ItemMLP, stock: nn.Module) -> None:
    """Gives RecBole's ``DNN`` the weights of our ``ItemMLP``, so that both compute the same function of the items.

    Its first layer reads [padding item, items, time embedding]; ours is split into items and time. The padding item's
    column, row and bias are set to zero: it neither counts nor gets a score.

    Args:
        network: ours.
        stock: ``StockDiffRec.mlp``, of the same widths.
    """
    linear = [layer for layer in stock.mlp_layers.modules() if isinstance(layer, nn.Linear)]
    first, *inner, last = linear
    stock.emb_layer.load_state_dict(network.time_embed.state_dict())
    items = network.input.weight.T
    first.weight.copy_(torch.cat([items.new_zeros(len(items), 1), items, network.time_input.weight], dim=1))
    first.bias.copy_(network.input.bias)
    for theirs, ours in zip(inner, network.layers, strict=True):
        theirs.load_state_dict(ours.state_dict())
    for theirs, ours in ((last.weight, network.output.weight), (last.bias, network.output.bias)):
        theirs[0] = 0
        theirs[1:].copy_(ours)


@torch.no_grad()
def algorithm_2(
    network: ConditionalNetwork, cond: Tensor, no_history: Tensor, betas: Tensor, guidance_scale: float, noise: Noise
) -> Tensor:
    """DreamRec, Algorithm 2 (Yang et al. 2023, section 3.3), line by line; two network calls a step.

    Args:
        network: f(x, c, t) -> x0_hat.
        cond: c, the encoded histories [B, d].
        no_history: Phi [d].
        betas: the schedule [T].
        guidance_scale: w.
        noise: draw 0 is x_T; step k takes draw k + 1.

    Returns:
        The oracle items x_0 [B, d].
    """
    beta = betas.double()
    alpha = 1 - beta
    abar = torch.cumprod(alpha, 0)
    abar_prev = torch.cat([abar.new_ones(1), abar[:-1]])
    of_x0 = (torch.sqrt(abar_prev) * beta / (1 - abar)).tolist()
    of_x_t = (torch.sqrt(alpha) * (1 - abar_prev) / (1 - abar)).tolist()
    std = torch.sqrt(beta * (1 - abar_prev) / (1 - abar)).tolist()
    nothing = no_history.expand_as(cond)

    x = noise(cond, 0)
    for t in reversed(range(len(betas))):
        step = torch.full((len(x),), t, device=x.device)
        x0_hat = (1 + guidance_scale) * network(x, cond, step) - guidance_scale * network(x, nothing, step)
        x = of_x0[t] * x0_hat + of_x_t[t] * x
        if t > 0:
            x = x + std[t] * noise(x, len(betas) - t)
    return x
