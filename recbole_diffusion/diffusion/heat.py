"""Diffusion over a graph of items: smoothing a row, and undoing it. Deterministic, so there is no noise to hand in.

The graph is given as ``smooth(x) -> x A`` for rows x [B, n] and an item-item matrix A with eigenvalues in [0, 1]; how the
product is made is the caller's affair.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_diffusion.diffusion.flow import check_steps

Smooth = Callable[[Tensor], Tensor]
"""x [B, n] -> x A [B, n]."""


class GraphHeat:
    """GiffCF's forward process and its reverse step (Zhu et al., SIGIR 2024).

    F_t(x) = x + alpha tau_t (x A - x), tau_t = (t + 1) / T: one Euler step of the heat equation dx/dtau = alpha (x A - x)
    of length tau_t. An eigenvector of A with eigenvalue w is scaled by 1 - alpha tau_t (1 - w).

    Args:
        smooth: the graph.
        n_steps: T, at least 1.
        strength: alpha, at least 0.
        decay: what is left of the deviation of x_t from F_t(x0_hat) after one step, in [0, 1].

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, smooth: Smooth, n_steps: int, strength: float = 1.5, decay: float = 0.5) -> None:
        if not strength >= 0:
            raise ValueError(f"strength={strength!r} must be at least 0")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay!r} must be in [0, 1]")
        self.smooth, self.n_steps = smooth, check_steps(n_steps)
        self.strength, self.decay = float(strength), float(decay)

    def q_sample(self, x_0: Tensor, t: Tensor, smoothed: Tensor | None = None) -> Tensor:
        """x_t = F_t(x_0), [B, n].

        Args:
            x_0: [B, n].
            t: LongTensor [B].
            smoothed: ``smooth(x_0)`` where the caller has it already.
        """
        level = (self.strength / self.n_steps) * (t + 1).to(x_0.dtype)
        return torch.lerp(x_0, self.smooth(x_0) if smoothed is None else smoothed, level[:, None])

    def prior(self, x_0: Tensor, smoothed: Tensor | None = None) -> Tensor:
        """x_T, where the reverse pass starts: the history at the last level, F_T(x_0)."""
        return self.q_sample(x_0, torch.full((len(x_0),), self.n_steps - 1, device=x_0.device), smoothed)

    def step(self, x0_hat: Tensor, x_t: Tensor, t: int, s: int, z: Tensor | None = None) -> Tensor:
        """x_s = F_s(x0_hat) + decay^(t-s) (x_t - F_t(x0_hat)); F is the identity at s = -1. ``z`` is not used."""
        keep, unit = self.decay ** (t - s), self.strength / self.n_steps
        # F_s - keep F_t = (1 - keep) x0_hat + (level_s - keep level_t) (x0_hat A - x0_hat)
        level = unit * ((s + 1) - keep * (t + 1))
        smoothed = self.smooth(x0_hat)
        return (1.0 - keep - level) * x0_hat + level * smoothed + keep * x_t


def deferred(rows: Tensor) -> Tensor:
    """``smooth`` for rows p + q A that are kept as p and q, [B, 2, n]: the product with A is deferred to the end.

    All that a reverse pass does with its rows is linear, but for the denoiser. One that reads x_t only through a table W of a
    few columns needs p W + q (A W), so the pass takes a single product with A, of what is left in q, however many steps.

    Args:
        rows: estimates, whose q is 0.
    """
    return rows.roll(1, dims=1)


def sharpen(x: Tensor, smooth: Smooth, time: float, n_steps: int = 1, order: int = 4) -> Tensor:
    """Solve dx/dt = -x A for ``time`` by ``n_steps`` Runge-Kutta steps: BSPM's sharpening (Choi et al., SIGIR 2023).

    A step of any Runge-Kutta method whose number of stages is its order multiplies x by the Taylor polynomial of
    exp(-h A), so four stages are four products and nothing else. With all of A's eigenvalues w at hand, the same function
    with ``smooth = lambda y: y * w`` gives the polynomial of each.

    Args:
        x: [B, n].
        smooth: x -> x A.
        time: how long, at least 0. Large steps (h of 2.5 and one step, as published for Gowalla) do not solve the equation
            well; they are a polynomial filter in their own right.
        n_steps: number of steps, at least 1.
        order: 1 is Euler's method, 4 the classical one and the 3/8 rule.

    Raises:
        ValueError: an argument outside its range.
    """
    if not time >= 0:
        raise ValueError(f"time={time!r} must be at least 0")
    if n_steps < 1 or not 1 <= order <= 4:
        raise ValueError(f"n_steps={n_steps!r} must be at least 1 and order={order!r} in [1, 4]")
    if time == 0:
        return x
    h = time / n_steps
    for _ in range(n_steps):
        # Horner: 1 - hA (1 - hA/2 (1 - hA/3 (1 - hA/4)))
        total = x
        for k in range(order, 0, -1):
            total = torch.add(x, smooth(total), alpha=-h / k)
        x = total
    return x
