"""The Brownian bridge from data to an end point that is known, such as an encoded history.

BBDRec (2025) diffuses the embedding of the next item into the encoded history in this way; Li et al. 2023 (BBDM,
section 3) have the process for images. The index convention is :mod:`recbole_diffusion.diffusion.process`'s.
"""

import math

import torch
from torch import Tensor

from recbole_diffusion.diffusion._tables import DoubleTables, at
from recbole_diffusion.diffusion.flow import check_steps


def bridge_levels(steps: int) -> Tensor:
    """BBDRec's b_t: a line from 1e-4 to 1 - 1e-4, float64 [steps]; a single step is the one nearest to the end point.

    Raises:
        ValueError: ``steps`` below 1.
    """
    return torch.linspace(1.0 - 1e-4, 1e-4, check_steps(steps), dtype=torch.float64).flip(0)


class BrownianBridge(DoubleTables):
    """q(x_t | x_0, end) = N((1 - b_t) x_0 + b_t end, m b_t (1 - b_t) I), for rising levels b_t.

    The end point enters the marginal only. Given x_t, what lies before t does not depend on what comes after: with
    g = (1 - b_t) / (1 - b_s), delta_t = m b_t (1 - b_t) and D = delta_t - g^2 delta_s, the posterior mean of BBDM is

        (delta_s / delta_t) g x_t + (D / delta_t) (1 - b_s) x_0 + (b_s - b_t g delta_s / delta_t) end,

    and delta_s g / delta_t = b_s / b_t, so that the last bracket is 0 and the first two weights are b_s / b_t and
    1 - b_s / b_t. (BBDRec's code computes the bracket and does not use it, which is therefore no error.)

    Args:
        levels: b [T], strictly rising within (0, 1].
        variance: m, at least 0; 0 is the straight line.

    Raises:
        ValueError: levels or variance outside their range.
    """

    levels: Tensor
    posterior_ratio: Tensor
    posterior_var: Tensor

    def __init__(self, levels: Tensor, variance: float = 1.0) -> None:
        super().__init__()
        levels = torch.as_tensor(levels).detach().to(torch.float64, copy=True)
        check_levels(levels)
        if not 0 <= variance < math.inf:
            raise ValueError(f"variance={variance!r} must be finite and at least 0")
        self.variance = float(variance)
        # Numbers for `step`, which must not wait for the device; index -1 is clean data.
        self._numbers = [*levels.tolist(), 0.0]
        before = torch.cat([levels.new_zeros(1), levels[:-1]])
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("posterior_ratio", before / levels, persistent=False)
        self.register_buffer("posterior_var", variance * before * (levels - before) / levels, persistent=False)

    @property
    def n_steps(self) -> int:
        """T, the number of steps."""
        return self.levels.numel()

    def extra_repr(self) -> str:
        return f"n_steps={self.n_steps}, variance={self.variance}"

    def q_sample(self, x_0: Tensor, t: Tensor, eps: Tensor, end: Tensor) -> Tensor:
        """x_t = (1 - b_t) x_0 + b_t end + sqrt(m b_t (1 - b_t)) eps, a draw of q(x_t | x_0, end).

        Args:
            x_0: [B, ...].
            t: LongTensor [B], or [B, L] for a level of its own at each position.
            eps: standard normal, like ``x_0``.
            end: the end point, like ``x_0``.
        """
        b = at(self.levels, t, x_0)
        std = at(self.variance * self.levels * (1.0 - self.levels), t, x_0, sqrt=True)
        return torch.lerp(x_0, end, b) + std * eps

    def prior(self, end: Tensor) -> Tensor:
        """x_T, where the reverse pass starts: the end point itself (BBDRec); BBDRec's b_T is nearly 1."""
        return end

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, ...] and variance [B, 1, ...] of q(x_{t-1} | x_t, x_0), which does not depend on the end point.

        mean = x_0 + (b_{t-1} / b_t) (x_t - x_0), var = m b_{t-1} (b_t - b_{t-1}) / b_t. At t = 0 they are x_0 and 0.
        """
        return torch.lerp(x_0, x_t, at(self.posterior_ratio, t, x_t)), at(self.posterior_var, t, x_t)

    def step(self, x0_hat: Tensor, x_t: Tensor, t: int, s: int, z: Tensor | None = None) -> Tensor:
        """A draw of q(x_s | x_t, x_0 = x0_hat) for any s < t; its mean for ``z = None``. x0_hat itself at s = -1."""
        b_t, b_s = self._numbers[t], self._numbers[s]
        mean = torch.lerp(x0_hat, x_t, b_s / b_t)
        return mean if z is None or s < 0 else mean + math.sqrt(self.variance * b_s * (b_t - b_s) / b_t) * z


def check_levels(levels: Tensor) -> None:
    """Raise ValueError unless ``levels`` [T] is a non-empty vector that rises strictly within (0, 1]."""
    if levels.dim() != 1 or levels.numel() == 0:
        raise ValueError(f"levels must be a non-empty vector, got shape {tuple(levels.shape)}")
    steps = torch.diff(levels, prepend=levels.new_zeros(1))
    if not bool((steps > 0).all()) or not float(levels[-1]) <= 1:
        raise ValueError(f"levels must rise strictly within (0, 1], got {levels[:3].tolist()}...{levels[-1].item()}")
