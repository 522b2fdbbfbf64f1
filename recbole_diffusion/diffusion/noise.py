"""Where randomness comes from: every sampler draws from a ``Noise`` that its caller hands in.

``noise(x, i)`` is a standard normal tensor of x's shape, type and device for draw number i. Samplers number their
draws: 0 is the caller's own (x_T, or DiffRec's T' noising), step k of a sampler uses k + 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Noise = Callable[[Tensor, int], Tensor]
"""(x [B, ...], draw number) -> standard normal noise like x."""


def stream_noise(generator: torch.Generator | None = None) -> Noise:
    """Noise from a generator's stream: fresh numbers on every call, whatever the draw number.

    Args:
        generator: where the numbers come from; None is torch's global generator of x's device. Its device may differ
            from x's: the numbers are then drawn there and copied, so that one CPU seed gives one result everywhere.
    """

    def noise(x: Tensor, draw: int) -> Tensor:
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)

    return noise


def keyed_noise(keys: Tensor, seed: int) -> Noise:
    """Noise that is a pure function of (seed, row key, draw number, column, number of columns).

    A row's noise then depends neither on the batch it comes in, nor on the rows before it, nor on the device's
    generator: evaluating a user alone, in a batch, or twice gives the same scores. The numbers are counter-based
    (Salmon et al. 2011): columns j and n + j of a row of 2n are the Box-Muller pair of the j-th output of a splitmix64
    stream (Steele et al. 2014) whose start is a hash of (seed, key, draw).

    Args:
        keys: LongTensor [B], one per row of the batch: user ids, or row numbers in the evaluated set. Rows with equal
            keys get equal noise.
        seed: any integer.

    Returns:
        A ``Noise`` for batches of B rows; it raises ValueError for another number of rows.

    Raises:
        ValueError: keys that are not an integer vector.
    """
    if keys.dim() != 1 or keys.is_floating_point() or keys.is_complex():
        raise ValueError(f"keys must be an integer vector, got {keys.dtype} of shape {tuple(keys.shape)}")

    def noise(x: Tensor, draw: int) -> Tensor:
        if x.shape[:1] != keys.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, but there are {keys.numel()} keys: one per row is needed")
        columns = x[0].numel() if len(x) else 0
        counter = torch.arange(1, (columns + 1) // 2 + 1, device=x.device) * _GOLDEN
        # One round per input, so that neighbouring seeds, draws and keys start unrelated streams.
        start = _mix(keys.to(x.device, torch.int64) + _mix_number(_mix_number(seed) + draw))
        normal = _box_muller(_mix(start[:, None] + counter))
        return normal[:, :columns].reshape(x.shape).to(x.dtype)

    return noise


def zero_noise(x: Tensor, draw: int) -> Tensor:
    """The ``Noise`` that adds none: x_T = 0, or the means only."""
    return torch.zeros_like(x)


def _signed(value: int) -> int:
    """``value`` modulo 2^64 as the int64 with the same bits; torch's int64 arithmetic wraps around."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """The splitmix64 finaliser: a bijection of int64 in which every input bit reaches every output bit."""
    z = (z ^ _shift(z, 30)).mul_(_MIX_1)
    z = z.bitwise_xor_(_shift(z, 27)).mul_(_MIX_2)
    return z.bitwise_xor_(_shift(z, 31))


def _mix_number(z: int) -> int:
    """:func:`_mix` of a number, without a tensor's overhead."""
    z &= 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return _signed(z ^ (z >> 31))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _box_muller(bits: Tensor) -> Tensor:
    """Pairs of independent standard normals, float32 [B, 2 n], from 64 random bits each [B, n].

    In single precision, whatever the type of the data: nothing needs noise with more digits. The uniform number under the
    logarithm is at least 2^-33, which bounds the radius at 6.8.
    """
    radius = _shift(bits, 32).float().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (bits & 0xFFFFFFFF).float().mul_(2.0 * math.pi * 2.0**-32)
    return torch.cat([torch.cos(angle).mul_(radius), angle.sin_().mul_(radius)], dim=1)
