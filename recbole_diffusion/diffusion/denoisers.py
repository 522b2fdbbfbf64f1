"""The papers' networks and time embeddings. They know nothing of betas."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from recbole_diffusion.diffusion._tables import DoubleTables

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "leakyrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "identity": nn.Identity,
    "none": nn.Identity,
}


def activation_layer(name: str | None) -> nn.Module:
    """Activation by name, in any case: the names RecBole's MLPLayers know that need no width, and a few more.

    Raises:
        ValueError: an unknown name.
    """
    key = "none" if name is None else str(name).lower()
    if key not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} is unknown; it must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[key]()


def sinusoidal_embedding(
    t: Tensor, dim: int, order: str = "cos-sin", max_period: float = 1e4, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5), as each paper has
    them.

    With half = dim // 2 and i = 0..half-1:

    * ``cos-sin`` (DiffRec): [cos, sin] at frequencies max_period^(-i / half),
    * ``sin-cos`` (DreamRec): [sin, cos] at frequencies max_period^(-i / (half - 1)).

    An odd ``dim`` ends with a zero; of ``dim`` = 1 only the first half is left.

    Args:
        t: [...], integers or not.
        dim: width, at least 1.
        order: ``cos-sin`` or ``sin-cos``.
        max_period: the longest period divided by 2 pi.
        dtype: of the result.

    Returns:
        [..., dim].

    Raises:
        ValueError: a width below 1 or another order.
    """
    if dim < 1:
        raise ValueError(f"dim={dim!r} of the time embedding must be at least 1")
    if order not in ("cos-sin", "sin-cos"):
        raise ValueError(f"order={order!r} of the time embedding must be cos-sin or sin-cos")
    half = max(dim // 2, 1)
    span = half if order == "cos-sin" else max(half - 1, 1)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    frequencies = torch.exp(-math.log(max_period) / span * torch.arange(half, device=t.device, dtype=work))
    angle = t.to(work)[..., None] * frequencies
    parts = [angle.cos(), angle.sin()] if order == "cos-sin" else [angle.sin(), angle.cos()]
    embedding = torch.cat([*parts, angle.new_zeros(*t.shape, 1)], dim=-1)[..., :dim]
    return embedding.to(dtype)


class ItemLayer(nn.Module):
    """A linear layer from items, x [B, n_items] -> [B, width], whose weight [n_items, width] has a row per item.

    Args:
        n_items: width of x.
        width: width of the output.
    """

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__()
        self.in_features, self.out_features = n_items, width
        self.weight = nn.Parameter(torch.empty(n_items, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, n_items] -> [B, width]."""
        return torch.addmm(self.bias, x, self.weight)


class FastDropout(nn.Dropout):
    """Dropout that draws 16 random bits per element on a CPU: a sixth of the time that ``nn.Dropout`` takes there.

    On a CPU the probability is rounded to a multiple of 2^-16, and what is kept is scaled by the rounded one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = round(self.p * 2**16)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        return x * (bits >= dropped - 2**15).to(x.dtype).mul_(2**16 / (2**16 - dropped))


class ItemMLP(nn.Module):
    """DiffRec's denoiser (Wang et al. 2023, section 3.2): an MLP over [x_t, time embedding], from items to items.

    The first layer is kept in two parts, ``input`` over the items and ``time_input`` over the time embedding. Their sum
    is the same function as one layer over the concatenation, and it lets
    :class:`recbole_diffusion.diffusion.exact.HiddenChain` carry W_1 x_t instead of x_t. Weights start Xavier-normal,
    with the fan-in of the concatenation, biases at 0.

    Args:
        n_items: width of x, at least 1.
        hidden: widths of the hidden layers from input to output, at least one.
        time_dim: width of the time embedding, at least 1.
        activation: after each hidden layer, none after the last; see :func:`activation_layer`.
        dropout: probability of dropping an input item while training, in [0, 1).
        normalize: scale x_t to unit length first.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        n_items: int,
        hidden: Sequence[int],
        time_dim: int,
        activation: str | None = "tanh",
        dropout: float = 0.5,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        hidden = [int(width) for width in hidden]
        widths = [("hidden width", width) for width in hidden]
        for key, value in [("n_items", n_items), ("time_dim", time_dim), *widths]:
            if value < 1:
                raise ValueError(f"{key}={value!r} must be at least 1")
        if not hidden:
            raise ValueError("hidden=[] must name at least one layer width")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r} must be in [0, 1)")
        self.n_items, self.hidden, self.time_dim, self.normalize = n_items, hidden, time_dim, bool(normalize)
        self.dropout = FastDropout(dropout)
        self.time_embed = nn.Linear(time_dim, time_dim)
        self.input = ItemLayer(n_items, hidden[0])
        self.time_input = nn.Linear(time_dim, hidden[0], bias=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.output = nn.Linear(hidden[-1], n_items)
        self.activation = activation_layer(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-normal weights (Glorot & Bengio 2010, Eq. 12), zero biases."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, ItemLayer)):
                nn.init.xavier_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        std = math.sqrt(2.0 / (self.n_items + self.time_dim + self.hidden[0]))
        for part in (self.input, self.time_input):
            nn.init.normal_(part.weight, std=std)

    def time_bias(self, t: Tensor) -> Tensor:
        """What the time adds to the first layer's pre-activation: t [n] -> [n, h_1]."""
        embedding = sinusoidal_embedding(t, self.time_dim, "cos-sin", dtype=self.time_embed.weight.dtype)
        bias: Tensor = self.time_input(self.time_embed(embedding))
        return bias

    def inner(self, pre_activation: Tensor) -> Tensor:
        """From the first layer's pre-activation [B, h_1] to the last hidden layer's activation [B, h_last]."""
        h: Tensor = self.activation(pre_activation)
        for layer in self.layers:
            h = self.activation(layer(h))
        return h

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B, n_items], t [B] -> output [B, n_items]."""
        if self.normalize:
            x_t = nn.functional.normalize(x_t)
        # Items are the rows of every large matrix: x_t and the output are transposed views, both weights have a row per item.
        # A BLAS is up to 1.6 times as fast when the rows of a result start at multiples of 64 bytes, which batches and
        # hidden widths usually give and numbers of items do not.
        x_t = self.dropout(x_t.T).T
        g = self.inner(self.input(x_t) + self.time_bias(t))
        output: Tensor = torch.addmm(self.output.bias[:, None], self.output.weight, g.T).T
        return output


class AffineParts(NamedTuple):
    """f(x, c, t) = x A^T + c B^T + tau(t) C^T + b: views of the layer's weight, each [d, d], and its bias [d]."""

    A: Tensor
    B: Tensor
    C: Tensor
    b: Tensor


class _Sinusoids(DoubleTables):
    """The sinusoids of t = 0..T-1, float64 [T, d]."""

    table: Tensor

    def __init__(self, n_steps: int, dim: int) -> None:
        super().__init__()
        table = sinusoidal_embedding(torch.arange(n_steps), dim, "sin-cos", dtype=torch.float64)
        self.register_buffer("table", table, persistent=False)


class ConditionedDenoiser(nn.Module):
    """DreamRec's denoiser f(x_t, c, t) (Yang et al. 2023, section 3.2.2): layers over [x_t, c, tau(t)].

    tau(t) is the sinusoid through Linear(d, 2d), GELU, Linear(2d, d).

    Args:
        dim: d, the width of items and conditions, at least 1.
        kind: ``mlp1`` is the published one, a single Linear(3d, d), affine in x and c, so that
            :func:`recbole_diffusion.diffusion.exact.affine_chain` composes its whole chain; ``mlp2`` is Linear(3d, 2d),
            GELU, Linear(2d, d).
        n_steps: T where t is one of 0..T-1. The sinusoids are then a table, and the time's part of the first layer is
            computed once for each t, not for every row.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, dim: int, kind: str = "mlp1", n_steps: int | None = None) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim!r} must be at least 1")
        if kind not in ("mlp1", "mlp2"):
            raise ValueError(f"kind={kind!r} of denoiser must be mlp1 or mlp2")
        self.dim, self.kind = dim, kind
        self.time_net = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.net: nn.Module = (
            nn.Linear(3 * dim, dim)
            if kind == "mlp1"
            else nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        )
        self.sinusoids = None if n_steps is None else _Sinusoids(n_steps, dim)

    def time_embedding(self, t: Tensor) -> Tensor:
        """tau(t): t [n] -> [n, d]."""
        dtype = next(self.time_net.parameters()).dtype
        if self.sinusoids is None:
            sinusoids = sinusoidal_embedding(t, self.dim, "sin-cos", dtype=dtype)
        else:
            sinusoids = self.sinusoids.table[t].to(dtype)
        tau: Tensor = self.time_net(sinusoids)
        return tau

    def forward(self, x_t: Tensor, cond: Tensor, t: Tensor) -> Tensor:
        """x_t [B, d], cond [B, d], t [B] -> output [B, d]."""
        # One product for each part in place of one for [x, c, tau]: x needs no gradient while training, and the time's part
        # is needed once for each t.
        first = cast("nn.Linear", self.net if self.is_affine else cast("nn.Sequential", self.net)[0])
        A, B, C = first.weight.chunk(3, dim=1)
        steps, row = self._distinct(t)
        time = torch.addmm(first.bias, self.time_embedding(steps), C.T)
        if row is not None:
            time = nn.functional.embedding(row, time)
        hidden = torch.addmm(torch.addmm(time, x_t, A.T), cond, B.T)
        return hidden if self.is_affine else cast("Tensor", cast("nn.Sequential", self.net)[1:](hidden))

    def _distinct(self, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The steps of which the time's part is computed, and where each row finds its own; None: row by row."""
        if self.sinusoids is None:
            return t, None
        n_steps = len(self.sinusoids.table)
        if len(t) > 4 * n_steps:
            return torch.arange(n_steps, device=t.device), t
        # How many are distinct, another device would have to be waited for.
        if t.device.type == "cpu" and len(t) > 1:
            steps, row = torch.unique(t, return_inverse=True)
            return steps, row
        return t, None

    @property
    def is_affine(self) -> bool:
        """Whether the output is affine in x_t and cond."""
        return self.kind == "mlp1"

    def affine_parts(self) -> AffineParts:
        """A, B, C, b of ``mlp1``.

        Raises:
            ValueError: ``mlp2``, which is not affine.
        """
        if not self.is_affine:
            raise ValueError(f"denoiser kind={self.kind!r} is not affine; only mlp1 is")
        layer = cast("nn.Linear", self.net)
        A, B, C = layer.weight.chunk(3, dim=1)
        return AffineParts(A, B, C, layer.bias)

    def time_shift(self, t: Tensor) -> Tensor:
        """C tau(t) + b of ``mlp1``, what the time adds to the output: t [n] -> [n, d].

        Raises:
            ValueError: ``mlp2``, which is not affine.
        """
        parts = self.affine_parts()
        return torch.addmm(parts.b, self.time_embedding(t), parts.C.T)
