"""Reverse-time samplers: pure functions from noise to data.

Each takes ``denoise(x_t, t) -> x0_hat``, the current x [B, ...], the process, and a grid of explicit (t, s) pairs,
"from t to s", with s = -1 meaning clean data; it never works out a "previous t" itself. All coefficients are Python
numbers computed once before the loop, so that no step waits for the device. Step k draws number k + 1 from ``noise``
(draw 0 is the caller's, for x_T); ``noise=None`` leaves every draw out. ``ancestral``, ``ddim`` and ``dpmpp_2m`` are for
Gaussian diffusion; ``stepwise`` is for every process that has a step of its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.process import Denoiser, GaussianDiffusion

Grid = Sequence[tuple[int, int]]
"""(t, s) pairs: decreasing, each starting where the one before ended, the last ending at -1."""

SPACINGS = ("uniform", "quadratic", "log-snr")


class SteppedProcess(Protocol):
    """A process that says itself how to go from t to s: the bridge, the flows, graph heat, absorbing diffusion."""

    @property
    def n_steps(self) -> int:
        """T."""

    def step(self, x0_hat: Tensor, x_t: Tensor, t: int, s: int, z: Tensor | None = None) -> Tensor:
        """x_s from x_t and the estimate of x_0; ``z`` is the random draw that the step takes, None for its mean."""


def time_grid(
    process: GaussianDiffusion | SteppedProcess, n_steps: int | None = None, spacing: str = "uniform"
) -> list[tuple[int, int]]:
    """The (t, s) pairs of a reverse pass of ``n_steps`` steps, from T-1 to clean data, -1.

    The times are distinct and, from two steps on, include both ends, T-1 and 0: the last step leaves from the least
    noisy level. Where rounding would visit a time twice, it moves to the nearest free one.

    Args:
        process: the diffusion.
        n_steps: in [1, T]; None is T, every step.
        spacing: ``uniform`` in t, ``quadratic`` in t (denser near the data; Song et al. 2021 (DDIM), appendix D.2), or
            ``log-snr``, uniform in log SNR (Lu et al. 2022 (DPM-Solver), section 3.4), which only Gaussian diffusion has.

    Raises:
        ValueError: ``n_steps`` or ``spacing`` outside its range.
    """
    total = process.n_steps
    n = total if n_steps is None else n_steps
    if not 1 <= n <= total:
        raise ValueError(f"n_steps={n_steps!r} must be in [1, {total}], the number of steps of the process")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing={spacing!r} must be one of {', '.join(SPACINGS)}")
    times = _distinct(_spaced(process, n, spacing), total)
    return list(zip(times, [*times[1:], -1], strict=True))


def _spaced(process: GaussianDiffusion | SteppedProcess, n: int, spacing: str) -> list[int]:
    """n ascending times in [0, T-1], perhaps with repetitions; of one step, the noisiest."""
    last = process.n_steps - 1
    if n == 1:
        return [last]
    u = torch.linspace(0, 1, n, dtype=torch.float64)
    if spacing == "uniform":
        times = u * last
    elif spacing == "quadratic":
        times = u.square() * last
    elif not isinstance(process, GaussianDiffusion):
        raise ValueError(f"spacing={spacing!r} needs a Gaussian diffusion, got {type(process).__name__}; use uniform")
    else:
        log_snr = torch.log(process.alphas_cumprod / process.one_minus_alphas_cumprod).cpu()
        wanted = log_snr[0] + u * (log_snr[-1] - log_snr[0])
        times = (log_snr[None, :] - wanted[:, None]).abs().argmin(dim=1)
    return [int(t) for t in times.round().tolist()]


def _distinct(times: list[int], total: int) -> list[int]:
    """Ascending times made strictly ascending within [0, total), then reversed."""
    n = len(times)
    result: list[int] = []
    for i, t in enumerate(times):
        lowest = result[-1] + 1 if result else 0
        result.append(min(max(t, lowest), total - n + i))  # leave room for the n - 1 - i times still to come
    return result[::-1]


def ancestral(
    denoise: Denoiser, x: Tensor, process: GaussianDiffusion, grid: Grid, *, noise: Noise | None = None
) -> Tensor:
    """Ancestral sampling: x_{t-1} = posterior mean + sqrt(posterior variance) z, z = 0 at the last step.

    Ho et al. 2020, Algorithm 2 (sigma_t^2 the posterior variance); DreamRec, Algorithm 2. With ``noise=None`` the means
    only: DiffRec, Algorithm 2.

    Args:
        denoise: (x_t, t) -> x0_hat.
        x: x at the grid's first time, [B, ...].
        process: the diffusion.
        grid: every step: the posterior is defined between neighbours only.
        noise: z; step k takes draw k + 1. None: z = 0.

    Returns:
        x_0, [B, ...].

    Raises:
        ValueError: a grid that is no reverse pass, or skips steps.
    """
    _check(grid, process)
    for t, s in grid:
        if s != t - 1:
            raise ValueError(f"ancestral sampling takes every step, but the grid goes from {t} to {s}; ddim may skip")
    coef1, coef2 = process.posterior_mean_coef1.tolist(), process.posterior_mean_coef2.tolist()
    std = process.posterior_var.sqrt().tolist()
    for k, (t, s) in enumerate(grid):
        x = coef1[t] * denoise(x, _full(x, t)) + coef2[t] * x
        if noise is not None and s >= 0:
            x = x + std[t] * noise(x, k + 1)
    return x


def ddim(
    denoise: Denoiser,
    x: Tensor,
    process: GaussianDiffusion,
    grid: Grid,
    *,
    noise: Noise | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song, Meng & Ermon 2021, Eq. 12 and 16), over any grid.

    x_s = sqrt(abar_s) x0_hat + sqrt(1 - abar_s - sigma^2) eps_hat + sigma z with
    sigma^2 = eta^2 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s), eps_hat = (x_t - sqrt(abar_t) x0_hat) / sqrt(1 -
    abar_t). eta = 0 is deterministic; eta = 1 with every step has ancestral sampling's distribution.

    Args:
        denoise: (x_t, t) -> x0_hat.
        x: x at the grid's first time, [B, ...].
        process: the diffusion.
        grid: see :func:`time_grid`.
        noise: z; step k takes draw k + 1. None: z = 0.
        eta: at least 0; above 1 only while 1 - abar_s - sigma^2 stays non-negative.

    Returns:
        x_0, [B, ...].

    Raises:
        ValueError: a grid that is no reverse pass, or an eta outside its range.
    """
    _check(grid, process)
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta={eta!r} must be at least 0 and finite")
    signal, noise_var = _levels(process)
    steps = []
    for t, s in grid:
        var = eta**2 * noise_var[s] / noise_var[t] * (1.0 - (signal[t] / signal[s]) ** 2)
        if var > noise_var[s] * (1 + 1e-12):
            raise ValueError(f"eta={eta!r} adds more noise between t={t} and s={s} than there is at s; lower it")
        keep = math.sqrt(max(noise_var[s] - var, 0.0) / noise_var[t])
        steps.append((signal[s] - keep * signal[t], keep, math.sqrt(var)))
    for k, ((t, _), (of_x0, of_x, std)) in enumerate(zip(grid, steps, strict=True)):
        x = of_x0 * denoise(x, _full(x, t)) + of_x * x
        if noise is not None and std > 0:
            x = x + std * noise(x, k + 1)
    return x


def dpmpp_2m(
    denoise: Denoiser, x: Tensor, process: GaussianDiffusion, grid: Grid, *, noise: Noise | None = None
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): second-order, multistep, one evaluation a step, deterministic.

    With lambda = log(sqrt(abar) / sqrt(1 - abar)) and h = lambda_s - lambda_t:
    x_s = sigma_s/sigma_t x_t + sqrt(abar_s) (1 - e^{-h}) D, D = (1 + 1/(2r)) x0_hat_t - 1/(2r) x0_hat_{before}, where r
    is the step before's h divided by this one's. The first step has no step before it, and the last one, to clean data,
    has h = infinity: both are first-order, D = x0_hat_t, so that the last returns x0_hat.

    Args:
        denoise: (x_t, t) -> x0_hat.
        x: x at the grid's first time, [B, ...].
        process: the diffusion.
        grid: see :func:`time_grid`; ``log-snr`` spacing suits it best.
        noise: takes none; here so that samplers are called alike.

    Returns:
        x_0, [B, ...].

    Raises:
        ValueError: a grid that is no reverse pass.
    """
    _check(grid, process)
    signal, noise_var = _levels(process)
    lam = [0.5 * math.log(a * a / v) if v > 0 else math.inf for a, v in zip(signal, noise_var, strict=True)]
    before: tuple[Tensor, float] | None = None  # x0_hat and h of the step before
    for t, s in grid:
        x0_hat = denoise(x, _full(x, t))
        if s < 0:
            return x0_hat
        h = lam[s] - lam[t]
        data = x0_hat
        if before is not None:
            half_ratio = 0.5 * h / before[1]
            data = (1.0 + half_ratio) * x0_hat - half_ratio * before[0]
        x = math.sqrt(noise_var[s] / noise_var[t]) * x - signal[s] * math.expm1(-h) * data
        before = x0_hat, h
    return x


def stepwise(denoise: Denoiser, x: Tensor, process: SteppedProcess, grid: Grid, *, noise: Noise | None = None) -> Tensor:
    """The reverse pass of a process with a step of its own: x := process.step(x0_hat, x, t, s), over any grid.

    Args:
        denoise: (x_t, t) -> x0_hat.
        x: x at the grid's first time, [B, ...]; ``process.prior`` makes it.
        process: the process.
        grid: see :func:`time_grid`.
        noise: what the process's step draws (standard normal for the bridge, uniform for absorbing diffusion); step k takes
            draw k + 1. None: the process's means.

    Returns:
        x_0, [B, ...].

    Raises:
        ValueError: a grid that is no reverse pass.
    """
    _check(grid, process)
    for k, (t, s) in enumerate(grid):
        z = noise(x, k + 1) if noise is not None and s >= 0 else None
        x = process.step(denoise(x, _full(x, t)), x, t, s, z)
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ancestral": ancestral, "ddim": ddim, "dpmpp_2m": dpmpp_2m}


def _levels(process: GaussianDiffusion) -> tuple[list[float], list[float]]:
    """sqrt(abar_t) and 1 - abar_t as lists of T + 1 numbers, whose last, index -1, is clean data."""
    return [*process.alphas_cumprod.sqrt().tolist(), 1.0], [*process.one_minus_alphas_cumprod.tolist(), 0.0]


def _full(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.long, device=x.device)


def _check(grid: Grid, process: GaussianDiffusion | SteppedProcess) -> None:
    """Raise ValueError unless ``grid`` descends step after step from inside [0, T) to -1."""
    pairs = list(grid)
    if not pairs:
        raise ValueError("the grid has no steps")
    starts, ends = [t for t, _ in pairs], [s for _, s in pairs]
    if starts[0] >= process.n_steps or starts[1:] != ends[:-1] or ends[-1] != -1:
        raise ValueError(
            f"the grid must lead from below T={process.n_steps} to -1, each step starting where the one before ended; "
            f"got {pairs[:3]}...{pairs[-1]}"
        )
    for t, s in pairs:
        if not -1 <= s < t:
            raise ValueError(f"the grid must descend to -1, got the step {t} to {s}")
