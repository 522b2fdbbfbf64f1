"""The Gaussian diffusion process: forward marginals, posterior, and the three parameterisations.

**Index convention, for the whole package.** ``t`` is a LongTensor [B], 0-based: code ``t = 0`` is the papers' t = 1,
the least noisy step, and ``t = T - 1`` their t = T. Clean data, the papers' t = 0, is ``-1`` where it has a number at
all (``snr``, the grids of :mod:`recbole_diffusion.diffusion.samplers`). ``x_t`` is the papers' x_{t+1}, x_0 is clean
data.

Notation: beta_t the variance added at step t, alpha_t = 1 - beta_t, abar_t the product of alphas up to t
    ("alphas_cumprod").
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recbole_diffusion.diffusion._tables import DoubleTables, at
from recbole_diffusion.diffusion.schedule import check_betas

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> the network's raw output [B, ...]: x_0, eps or v."""

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> x0_hat [B, ...]: what samplers take, whatever the network predicts."""

PREDICTIONS = ("x0", "eps", "v")


class GaussianDiffusion(DoubleTables):
    """Forward process and posterior of Ho et al. 2020 for a given schedule.

    Every method takes batches [B, ...] with ``t`` [B], or sequences [B, L, ...] with ``t`` [B, L], a noise level for
    each position. Coefficients are gathered from float64 tables and cast to the data's type after the gather. The tables
    are non-persistent buffers: they follow the module from device to device, are not saved, and keep their precision
    under ``.half()``.

    Args:
        betas: [T], each strictly between 0 and 1 (see :func:`recbole_diffusion.diffusion.schedule.make_betas`).

    Attributes (float64 tensors [T]):
        betas, alphas, alphas_cumprod: beta_t, alpha_t, abar_t.
        alphas_cumprod_prev: abar_{t-1}, 1 at the first step.
        one_minus_alphas_cumprod: 1 - abar_t, computed without cancellation.
        posterior_mean_coef1, posterior_mean_coef2, posterior_var: see :meth:`posterior`.

    Raises:
        ValueError: betas that are not a vector or not inside (0, 1).
    """

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    one_minus_alphas_cumprod: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor
    posterior_var: Tensor
    _snr: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        betas = torch.as_tensor(betas).detach().to(torch.float64, copy=True)
        check_betas(betas, "GaussianDiffusion")
        # Sums of logarithms: 1 - abar keeps full precision where abar is within 1e-5 of 1.
        log_abar = torch.cumsum(torch.log1p(-betas), dim=0)
        log_abar_prev = torch.cat([log_abar.new_zeros(1), log_abar[:-1]])
        abar, abar_prev = torch.exp(log_abar), torch.exp(log_abar_prev)
        noise_var = -torch.expm1(log_abar)
        noise_var_prev = torch.cat([noise_var.new_zeros(1), noise_var[:-1]])
        coef1 = torch.sqrt(abar_prev) * betas / noise_var
        coef1[0] = 1.0  # exactly: the last step of a reverse chain must return x0_hat itself
        tables = {
            "betas": betas,
            "alphas": 1.0 - betas,
            "alphas_cumprod": abar,
            "alphas_cumprod_prev": abar_prev,
            "one_minus_alphas_cumprod": noise_var,
            "posterior_mean_coef1": coef1,
            "posterior_mean_coef2": torch.sqrt(1.0 - betas) * noise_var_prev / noise_var,
            "posterior_var": betas * noise_var_prev / noise_var,
            # One longer than the others, so that t = -1, clean data, has an entry.
            "_snr": torch.cat([betas.new_full((1,), math.inf), abar / noise_var]),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    @property
    def n_steps(self) -> int:
        """T, the number of steps."""
        return self.betas.numel()

    def extra_repr(self) -> str:
        return f"n_steps={self.n_steps}"

    def q_sample(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, a draw of q(x_t | x_0) (Ho et al. 2020, Eq. 4)."""
        return (self._spread(t, x_0) * eps).addcmul_(self._signal(t, x_0), x_0)

    def q_step(self, x_prev: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps, one forward step (Ho et al. 2020, Eq. 2)."""
        return at(self.alphas, t, x_prev, sqrt=True) * x_prev + at(self.betas, t, x_prev, sqrt=True) * eps

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, Eq. 7; DiffRec Eq. 10 with x_0 := x0_hat)."""
        return at(self.posterior_mean_coef1, t, x_t) * x_0 + at(self.posterior_mean_coef2, t, x_t) * x_t

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, ...] and variance [B, 1, ...] of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, Eq. 6 and 7).

        mean = sqrt(abar_{t-1}) beta_t / (1 - abar_t) x_0 + sqrt(alpha_t) (1 - abar_{t-1}) / (1 - abar_t) x_t,
        var = beta_t (1 - abar_{t-1}) / (1 - abar_t). At t = 0 they are x_0 and 0 exactly.
        """
        return self.posterior_mean(x_0, x_t, t), at(self.posterior_var, t, x_t)

    def x0_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t) (Ho et al. 2020, Eq. 4 solved for x_0)."""
        return (x_t - self._spread(t, x_t) * eps) / self._signal(t, x_t)

    def eps_from_x0(self, x_t: Tensor, t: Tensor, x_0: Tensor) -> Tensor:
        """eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t) (Ho et al. 2020, Eq. 4 solved for eps)."""
        return (x_t - self._signal(t, x_t) * x_0) / self._spread(t, x_t)

    def x0_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """x_0 = sqrt(abar_t) x_t - sqrt(1 - abar_t) v (Salimans & Ho 2022, appendix D)."""
        return self._signal(t, x_t) * x_t - self._spread(t, x_t) * v

    def v_from_x0_eps(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022, appendix D)."""
        return self._signal(t, x_0) * eps - self._spread(t, x_0) * x_0

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio abar_t / (1 - abar_t), float64 [B]; +inf at t = -1, clean data (DiffRec, Eq. 11)."""
        return self._snr[t + 1]

    def _signal(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(abar_t)."""
        return at(self.alphas_cumprod, t, like, sqrt=True)

    def _spread(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(1 - abar_t)."""
        return at(self.one_minus_alphas_cumprod, t, like, sqrt=True)

    def denoiser(self, network: Network, prediction: str) -> Denoiser:
        """Wrap a network that predicts ``prediction`` into ``denoise(x_t, t) -> x0_hat``.

        Args:
            network: (x_t [B, ...], t [B]) -> output [B, ...].
            prediction: ``x0``, ``eps`` (Ho et al. 2020) or ``v`` (Salimans & Ho 2022).

        Raises:
            ValueError: another prediction.
        """
        check_prediction(prediction)
        if prediction == "x0":
            return network
        convert = self.x0_from_eps if prediction == "eps" else self.x0_from_v
        return lambda x_t, t: convert(x_t, t, network(x_t, t))

    def prediction_coefs(self, prediction: str) -> tuple[Tensor, Tensor]:
        """p_t, q_t (float64 [T]) such that x0_hat = p_t x_t + q_t output, for a network that predicts ``prediction``.

        The same conversions as :meth:`denoiser`, as numbers: what the closed forms of
        :mod:`recbole_diffusion.diffusion.exact` are composed from.

        Raises:
            ValueError: a prediction other than ``x0``, ``eps``, ``v``.
        """
        check_prediction(prediction)
        signal, noise = self.alphas_cumprod.sqrt(), self.one_minus_alphas_cumprod.sqrt()
        if prediction == "x0":
            return torch.zeros_like(signal), torch.ones_like(signal)
        return (1.0 / signal, -noise / signal) if prediction == "eps" else (signal, -noise)


def check_prediction(prediction: str) -> None:
    """Raise ValueError unless ``prediction`` is one of ``PREDICTIONS``."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction={prediction!r} must be one of {', '.join(PREDICTIONS)}")
