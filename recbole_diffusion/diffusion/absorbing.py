"""Absorbing (masked) diffusion of discrete tokens, such as item ids (Austin et al. 2021, D3PM; Sahoo et al. 2024, MDLM).

A token stays what it is with probability alpha_t and is the mask otherwise, once masked for good:
q(x_t | x_0) = alpha_t delta(x_0) + (1 - alpha_t) delta(mask). The negative ELBO is

    sum over t of (alpha_{t-1} - alpha_t) / (1 - alpha_t) * sum over masked positions of -log p(x_0 | x_t),

with alpha_{-1} = 1. A position is masked at t with probability 1 - alpha_t, so its expected weight is the sum of
alpha_{t-1} - alpha_t, which is 1 whatever the schedule if alpha_T = 0. Hence the identity for a single token: all its
masked states are alike, p does not depend on t, and **the ELBO is the softmax cross-entropy, exactly**; generating in T
steps draws from the same distribution as one pass.
"""

import torch
from torch import Tensor

from recbole_diffusion.diffusion._tables import DoubleTables, at
from recbole_diffusion.diffusion.bridge import check_levels
from recbole_diffusion.diffusion.flow import check_steps


class AbsorbingDiffusion(DoubleTables):
    """Absorbing diffusion of tokens [B, L].

    Args:
        mask: the mask's token.
        rates: masking rates 1 - alpha_t, [T], strictly rising to 1. A number T stands for (t + 1) / T, the schedule for
            which ``weight`` is one over the rate.

    Raises:
        ValueError: rates that do not rise to 1.
    """

    rates: Tensor

    def __init__(self, mask: int, rates: Tensor | int) -> None:
        super().__init__()
        self.mask = mask
        if not isinstance(rates, Tensor):
            rates = torch.arange(1, check_steps(rates) + 1, dtype=torch.float64) / rates
        table = rates.detach().to(torch.float64, copy=True)
        check_levels(table)
        if float(table[-1]) != 1:
            raise ValueError(f"rates must end at 1, all tokens masked, got {float(table[-1])}")
        self._numbers = [*table.tolist(), 0.0]
        self.register_buffer("rates", table, persistent=False)

    @property
    def n_steps(self) -> int:
        """T, the number of steps."""
        return self.rates.numel()

    def extra_repr(self) -> str:
        return f"n_steps={self.n_steps}, mask={self.mask}"

    def q_sample(self, x_0: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """x_t of tokens ``x_0`` [B, L] at ``t`` [B] or [B, L]; ``u`` is uniform on [0, 1), like ``x_0``."""
        return torch.where(u < at(self.rates, t, u), self.mask, x_0)

    def prior(self, like: Tensor) -> Tensor:
        """x_T: every token of ``like`` [B, L] masked."""
        return torch.full_like(like, self.mask)

    def weight(self, t: Tensor) -> Tensor:
        """T (alpha_{t-1} - alpha_t) / (1 - alpha_t), float64 like ``t``: what to weigh -log p at the masked positions by,
        so that the mean over uniform t is the negative ELBO."""
        return self.n_steps * torch.diff(self.rates, prepend=self.rates.new_zeros(1))[t] / self.rates[t]

    def loss(self, nll: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The negative ELBO's estimate from one t for each row, in nats, [B].

        Args:
            nll: -log p(x_0 | x_t) at each position, [B, L]; used where ``x_t`` is masked.
            x_t: what :meth:`q_sample` made, [B, L].
            t: LongTensor [B], uniform on 0..T-1.
        """
        return self.weight(t).to(nll.dtype) * (nll * (x_t == self.mask)).sum(dim=-1)

    def posterior(self, t: Tensor) -> Tensor:
        """Probability (alpha_{t-1} - alpha_t) / (1 - alpha_t) that a token masked at t is shown at t - 1, like ``t``.

        That is all of q(x_{t-1} | x_t, x_0): a token that is shown stays, and one that becomes shown is x_0's.
        """
        return self.weight(t) / self.n_steps

    def step(self, x0_hat: Tensor, x_t: Tensor, t: int, s: int, z: Tensor | None = None) -> Tensor:
        """A draw of q(x_s | x_t, x_0 = x0_hat): each masked token becomes x0_hat's with its probability.

        Args:
            x0_hat: tokens drawn from the network's distribution, [B, L].
            x_t: tokens [B, L].
            t: from.
            s: to, below t; at s = -1 every masked token is shown.
            z: uniform on [0, 1), [B, L]; needed for s >= 0.

        Raises:
            ValueError: no ``z`` for s >= 0.
        """
        masked = x_t == self.mask
        if s >= 0:
            if z is None:
                raise ValueError("z: a step that does not end in clean data draws which tokens to show; got None")
            masked = masked & (z >= self._numbers[s] / self._numbers[t])
        return torch.where(masked, x0_hat, x_t)
