"""Noise schedules: from a name and a number of steps to betas.

Index convention (see :mod:`recbole_diffusion.diffusion.process`): ``betas[i]`` is the papers' beta_{i+1}. Writing
abar_t for the product of (1 - beta_s) over s <= t, a schedule is given either by its betas or by its abar; in the
second case beta_t = 1 - abar_t / abar_{t-1} with abar_0 = 1, so that the marginals are exactly those of the paper.

``linear``, ``cosine``, ``exp`` and ``sqrt`` are those of DreamRec's official code; ``linear-var`` is DiffRec's.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# The last betas of a schedule that destroys the signal completely would be 1; Nichol & Dhariwal 2021 (section 3.2) clip
# at .999, "to prevent singularities at the end of the diffusion process", and so do we where a schedule has no other limit.
MAX_BETA = 0.999


def linear(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """Betas rising linearly from ``start`` to ``end`` (Ho et al. 2020, section 4: 1e-4 to .02 at T = 1000)."""
    low, high = _range("linear", start, end, 1e-4, 0.02)
    return torch.linspace(low, high, steps, dtype=torch.float64)


def linear_var(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """Variances 1 - abar_t rising linearly from ``start`` to ``end`` (DiffRec, Wang et al. 2023, Eq. 4).

    The paper writes 1 - abar_t = s [a_min + (t-1)/(T-1) (a_max - a_min)]: ``start`` is s a_min and ``end`` is s a_max.
    The defaults are its ML-1M settings, s = .005, a_min = .005, a_max = .01.
    """
    low, high = _range("linear-var", start, end, 2.5e-5, 5e-5)
    if steps > 1 and not low < high:
        raise ValueError(
            f"schedule 'linear-var': start={low} must be below end={high}, for the variance must rise at each of the "
            f"{steps} steps"
        )
    var = torch.linspace(low, high, steps, dtype=torch.float64)
    previous = torch.cat([var.new_zeros(1), var[:-1]])
    # 1 - (1 - var_t) / (1 - var_{t-1}), written so that nothing cancels when the variances are tiny.
    return (var - previous) / (1.0 - previous)


def cosine(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """:func:`cosine_iddpm` with betas clipped to [1e-4, .9999] instead of at .999, DreamRec's `cosine`.

    With many steps the lower limit raises the first betas: 66 of them at T = 2000, DreamRec's setting for KuaiRec.
    """
    return _cosine_betas(steps).clamp(1e-4, 0.9999)


def cosine_iddpm(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """abar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) pi/2), s = .008 (Nichol & Dhariwal 2021, Eq. 17).

    DiffRec's official code calls this one `cosine`.
    """
    return _cosine_betas(steps).clamp(max=MAX_BETA)


def binomial(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """beta_t = 1 / (T - t + 1), t = 1..T (Sohl-Dickstein et al. 2015, section 2.4.1): 1/T of the signal goes each step.

    The last beta would be 1 and is clipped at ``MAX_BETA``. (RecBole's port counts t from 0 here and so ends at 1/2.)
    """
    return (1.0 / torch.arange(steps, 0, -1, dtype=torch.float64)).clamp(max=MAX_BETA)


def exp(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """The variance-preserving SDE in T steps (Song et al. 2021, Eq. 29 and 33), with the grid of DreamRec's `exp`.

    beta_t = 1 - exp(-[beta_min / T + y_t / (2 T^2) (beta_max - beta_min)]), beta_min = .1, beta_max = 10. The integral of the
    SDE's rate over a step has y_t = 2t - 1; DreamRec takes T equal steps from y_1 = 1 to y_T = 2T + 1, the factor
    1 + 1/(T - 1) larger in y_t - 1.
    """
    beta_min, beta_max = 0.1, 10.0
    y = torch.linspace(1, 2 * steps + 1, steps, dtype=torch.float64)
    return -torch.expm1(-(beta_min / steps + y / (2 * steps**2) * (beta_max - beta_min)))


def sqrt(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """abar_t = f(t) / f(0), f(t) = 1 - sqrt(t/T + s), s = 1e-4, DreamRec's `sqrt`.

    Diffusion-LM (Li et al. 2022, section 4.1 and appendix A) writes abar_t = f(t), whose first step would jump to the variance
    sqrt(1/T + s); its code, like DreamRec's, divides by f(0) = .99. f(T) is not positive: the last beta is clipped at
    ``MAX_BETA``.
    """
    return _betas_of(lambda u: 1.0 - torch.sqrt(u + 1e-4), steps).clamp(max=MAX_BETA)


def trunc_linear(steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """:func:`linear` between ``start`` and ``end`` of a thousand steps, scaled to T steps and raised by .01, DiffuRec's.

    With s = 1000 / T the betas rise from s start + .01 to s end + .01 (Diffusion-LM's code, `trunc_lin`); with so few steps
    that the last one would be above 1, to s end / 20 + .01, at most ``MAX_BETA``.
    """
    low, high = _range("trunc-linear", start, end, 1e-4, 0.02)
    scale = 1000 / steps
    last = scale * high + 0.01
    last = last if last <= 1 else scale * high / 20 + 0.01
    return torch.linspace(scale * low + 0.01, last, steps, dtype=torch.float64).clamp(max=MAX_BETA)


SCHEDULES: dict[str, Callable[[int, float | None, float | None], Tensor]] = {
    "linear": linear,
    "linear-var": linear_var,
    "cosine": cosine,
    "cosine-iddpm": cosine_iddpm,
    "binomial": binomial,
    "exp": exp,
    "sqrt": sqrt,
    "trunc-linear": trunc_linear,
}


def make_betas(
    name: str,
    steps: int,
    start: float | None = None,
    end: float | None = None,
    first_beta: float | None = None,
) -> Tensor:
    """The betas of a named schedule.

    Args:
        name: a key of ``SCHEDULES``.
        steps: T, at least 1.
        start: for ``linear`` the first beta, for ``trunc-linear`` that of a thousand steps, for ``linear-var`` the first
            variance; the other schedules have no range and leave it unused, so that a settings file may give it whatever
            the schedule. None: the paper's.
        end: the same for the last step.
        first_beta: replaces beta_1 when given. DiffRec fixes it to 1e-5, lest the first step alone hide the history.

    Returns:
        float64 tensor [T], each element strictly between 0 and 1.

    Raises:
        ValueError: an unknown name, ``steps`` below 1, or a beta outside (0, 1).
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule={name!r} is unknown; it must be one of {', '.join(SCHEDULES)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r} must be an integer of at least 1")
    betas = SCHEDULES[name](steps, start, end)
    if first_beta is not None:
        betas[0] = first_beta
    check_betas(betas, f"schedule {name!r}")
    return betas


def check_betas(betas: Tensor, what: str) -> None:
    """Raise ValueError unless ``betas`` [T] is a non-empty vector with every element strictly between 0 and 1."""
    if betas.dim() != 1 or betas.numel() == 0:
        raise ValueError(f"{what}: betas must be a non-empty vector, got shape {tuple(betas.shape)}")
    # Written as a negation so that NaN counts as outside.
    bad = (~((betas > 0) & (betas < 1))).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{what}: beta_{bad[0] + 1}={float(betas[bad[0]])} is outside the open interval (0, 1)"
            f" ({len(bad)} of {betas.numel()} betas are)"
        )


def _range(
    name: str, start: float | None, end: float | None, default_start: float, default_end: float
) -> tuple[float, float]:
    low = default_start if start is None else float(start)
    high = default_end if end is None else float(end)
    for key, value in (("start", low), ("end", high)):
        if not 0 < value < 1:
            raise ValueError(f"schedule {name!r}: {key}={value} is outside the open interval (0, 1)")
    if low > high:
        raise ValueError(f"schedule {name!r}: start={low} must not exceed end={high}")
    return low, high


def _cosine_betas(steps: int) -> Tensor:
    return _betas_of(lambda u: torch.cos((u + 0.008) / 1.008 * (math.pi / 2)) ** 2, steps)


def _betas_of(signal: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Betas of a schedule given as f(t/T), abar_t = f(t/T) / f(0); the last one may be 1 or more."""
    f = signal(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    return 1.0 - f[1:] / f[:-1]
