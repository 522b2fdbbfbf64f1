"""Flows along straight paths: rectified flow between noise and data, and FlowCF's flow of 0/1 rows.

The papers' flow time runs from noise at 0 to data at 1. Here, as everywhere in the package, ``t`` counts noise: code
t = 0 is the step next to the data and t = T - 1 the noisiest, whose level tau_t = (t + 1) / T is 1.
"""

import torch
from torch import Tensor


class RectifiedFlow:
    """x_t = (1 - tau_t) x_0 + tau_t eps (Liu et al. 2023, Eq. 1; FMRec with its t := 1 - tau).

    Args:
        n_steps: T, at least 1.

    Raises:
        ValueError: ``n_steps`` below 1.
    """

    def __init__(self, n_steps: int) -> None:
        self.n_steps = check_steps(n_steps)

    def q_sample(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = (1 - tau_t) x_0 + tau_t eps.

        Args:
            x_0: data [B, ...].
            t: [B] or [B, L]. Integers are the steps 0..T-1; floating-point numbers are levels tau themselves, for training
                at random times in [0, 1].
            eps: standard normal, like ``x_0``.
        """
        tau = (t if t.is_floating_point() else (t + 1) / self.n_steps).to(x_0.dtype)
        return torch.lerp(x_0, eps, tau.view(*t.shape, *[1] * (x_0.dim() - t.dim())))

    def velocity(self, x0_hat: Tensor, x_t: Tensor, t: int) -> Tensor:
        """(x0_hat - x_t) / tau_t, towards the data; with the true x_0 it is x_0 - eps, the same at every t."""
        return (x0_hat - x_t) * (self.n_steps / (t + 1))

    def step(self, x0_hat: Tensor, x_t: Tensor, t: int, s: int, z: Tensor | None = None) -> Tensor:
        """One Euler step along :meth:`velocity`, from tau_t to tau_s. ``z`` is not used.

        x_t + (tau_t - tau_s) v = x0_hat + (tau_s / tau_t) (x_t - x0_hat): the mean of a Brownian bridge's posterior, for the
        straight line is the bridge without variance. At s = -1 it is x0_hat.
        """
        return torch.lerp(x0_hat, x_t, (s + 1) / (t + 1))


class BernoulliFlow:
    """FlowCF's flow of 0/1 rows (KDD 2025, section 4): each entry is the datum's or, with probability tau_t, the prior's.

    Args:
        prior_prob: probability of a 1 in each column of the prior, [n] in [0, 1]: the items' frequencies.
        n_steps: T, at least 1; tau_t = (t + 1) / T. FlowCF's s_i is 1 - tau_t with i = T - 1 - t.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, prior_prob: Tensor, n_steps: int) -> None:
        self.n_steps = check_steps(n_steps)
        if not bool(((prior_prob >= 0) & (prior_prob <= 1)).all()):
            raise ValueError(f"prior_prob must be in [0, 1], got up to {float(prior_prob.max())}")
        self.prior_prob = prior_prob

    def level(self, t: Tensor) -> Tensor:
        """tau_t, float32, shaped like ``t``."""
        return (t + 1).float() / self.n_steps

    def prior(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """x_T [rows, n]: each entry 1 with its column's probability."""
        return torch.bernoulli(self.prior_prob.expand(rows, -1), generator=generator)

    def q_sample(self, x_0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x_t of data ``x_0`` [B, n] in {0, 1} at ``t`` [B]: entry by entry the prior's with probability tau_t."""
        # One uniform number decides both: below tau the entry is the prior's, which is 1 below tau * prior_prob.
        u = torch.rand(x_0.shape, generator=generator, dtype=x_0.dtype, device=x_0.device)
        tau = self.level(t).to(x_0.dtype)[:, None]
        return torch.where(u < tau, (u < tau * self.prior_prob).to(x_0.dtype), x_0)

    def step(self, x0_hat: Tensor, x_t: Tensor, t: int, s: int, z: Tensor | None = None) -> Tensor:
        """FlowCF's deterministic step: one Euler step of the probabilities; entries that exceed 1/2 become 1, none 0.

        With v = (x0_hat - x_t) / tau_t the probability is x_t + (tau_t - tau_s) v, so an entry that is 0 flips if
        x0_hat > (t + 1) / (2 (t - s)); at s = -1 the result is x0_hat, the scores. ``z`` is not used.
        """
        if s < 0:
            return x0_hat
        prob = torch.lerp(x0_hat, x_t, (s + 1) / (t + 1))
        return torch.maximum(x_t, (prob > 0.5).to(x_t.dtype))


def check_steps(n_steps: int) -> int:
    """Return ``n_steps``, or raise ValueError unless it is an integer of at least 1."""
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps={n_steps!r} must be an integer of at least 1")
    return n_steps
