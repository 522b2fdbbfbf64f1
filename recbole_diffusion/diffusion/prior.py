"""Diffusion of a token whose noise is a prior's draw: discrete diffusion (Austin et al. 2021, D3PM) towards p(. | history).

A step keeps the token with probability alphabar_t / alphabar_s and otherwise replaces it by a draw from a distribution p over
the tokens, which may be another one for each row. So

    q(x_t | x_0) = alphabar_t delta(x_0) + (1 - alphabar_t) p,

and the limit is the prior p, where D3PM has the uniform distribution or a mask. By Bayes' rule, with r(i) the probability of
the clean token i (given the history) and k(j) = alphabar_t / ((1 - alphabar_t) p(j)),

    p(x_0 = i | x_t = j)  =  r(i) (1 + k(j) [i = j]) / (1 + k(j) r(j)):

x_t speaks through one known number, log(1 + k(j)), which is added to the logit of j. At the last level k = 0 and the posterior
is r itself. **If r does not depend on t, the reverse pass draws from r, whatever the number of its steps**, and the negative
ELBO is -log r(x_0), because all its steps are the true posteriors of one joint distribution.

The reverse pass needs no draws: r and p being vectors, the distribution of x_s follows from that of x_t in O(n) numbers
(:meth:`PriorDiffusion.marginal_step`).
"""

import torch
from torch import Tensor

from recbole_diffusion.diffusion._tables import DoubleTables, at
from recbole_diffusion.diffusion.bridge import check_levels
from recbole_diffusion.diffusion.flow import check_steps


class PriorDiffusion(DoubleTables):
    """Diffusion of tokens 0..n-1 towards a prior distribution.

    Args:
        rates: replacement rates 1 - alphabar_t, [T], strictly rising to 1. A number T stands for (t + 1) / T.

    Raises:
        ValueError: rates that do not rise to 1.
    """

    rates: Tensor

    def __init__(self, rates: Tensor | int) -> None:
        super().__init__()
        if not isinstance(rates, Tensor):
            rates = torch.arange(1, check_steps(rates) + 1, dtype=torch.float64) / rates
        table = rates.detach().to(torch.float64, copy=True)
        check_levels(table)
        if float(table[-1]) != 1:
            raise ValueError(f"rates must end at 1, all tokens drawn from the prior, got {float(table[-1])}")
        self._numbers: list[float] = [*table.tolist(), 0.0]
        self.register_buffer("rates", table, persistent=False)

    @property
    def n_steps(self) -> int:
        """T, the number of steps."""
        return self.rates.numel()

    def extra_repr(self) -> str:
        return f"n_steps={self.n_steps}"

    def q_sample(self, x_0: Tensor, t: Tensor, u: Tensor, drawn: Tensor) -> Tensor:
        """x_t of tokens ``x_0`` [B] at ``t`` [B]; ``u`` is uniform on [0, 1), ``drawn`` tokens from the prior, both [B]."""
        return torch.where(u < at(self.rates, t, u), drawn, x_0)

    def evidence(self, p: Tensor, t: Tensor) -> Tensor:
        """log(1 + k), what x_t adds to its own logit: log q(x_t | x_0 = x_t) - log q(x_t | x_0 = another), like ``p``.

        Args:
            p: the prior's probability of each x_t, [B].
            t: LongTensor [B].
        """
        rate = at(self.rates, t, p)
        return torch.log1p((1 - rate) / (rate * p))

    def marginal_step(self, m: Tensor, r: Tensor, p: Tensor, t: int, s: int) -> Tensor:
        """The distribution of x_s where that of x_t is ``m``: sum over x_t and x_0 of m(x_t) p(x_0 | x_t) q(x_s | x_t, x_0).

        q(x_s | x_t, x_0), for x_t other than x_0, keeps x_t, goes to x_0 or draws anew from p, with probabilities ``kept``,
        ``shown`` and ``fresh``, which do not depend on p.

        Args:
            m: [..., n].
            r: the probabilities of the clean token, [..., n].
            p: the prior, [..., n].
            t: from.
            s: to, below t; -1 is clean data.

        Returns:
            [..., n].
        """
        from_, to = self._numbers[t], self._numbers[s]
        kept_since = (1 - from_) / (1 - to)  # alphabar_t / alphabar_s
        kept = (kept_since - (1 - from_)) / from_
        shown = (from_ - to) / from_
        fresh = (1 - kept_since) * to / from_
        k = (1 - from_) / (from_ * p)
        y = m / (k * r + 1)
        return y.sum(-1, keepdim=True) * (shown * r + fresh * p) + y * (k * r + kept)
