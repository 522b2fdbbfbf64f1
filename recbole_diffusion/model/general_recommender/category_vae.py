"""L-DiffRec's autoencoder: one variational encoder per category of items, over multinomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recbole_diffusion.diffusion.denoisers import FastDropout, ItemLayer, activation_layer


def multinomial_nll(logits: Tensor, x: Tensor) -> Tensor:
    """-sum_i x_i log softmax(logits)_i of each row, in nats ``[B]`` (Liang et al. 2018, Eq. 2).

    Args:
        logits: ``[B, n_items]``.
        x: counts or weights of the items ``[B, n_items]``.
    """
    logits = logits.to(x.dtype)
    return x.sum(1) * logits.logsumexp(1) - (x * logits).sum(1)


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, I)) of each row, in nats ``[B]`` (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)


def shares(width: int, sizes: Sequence[int]) -> list[int]:
    """Splits ``width`` in proportion to ``sizes``, at least 1 each.

    Raises:
        ValueError: less width than parts.
    """
    spare = width - len(sizes)
    if spare < 0:
        raise ValueError(f"a width of {width} cannot be split among {len(sizes)} categories")
    bounds = [round(spare * total / sum(sizes)) for total in accumulate(sizes, initial=0)]
    return [1 + end - start for start, end in pairwise(bounds)]


class _Encoder(nn.Module):
    """Items [n_k, B] -> mean and log-variance [B, 2 d_k], an activation after every layer, the last among them."""

    def __init__(self, widths: Sequence[int], activation: str) -> None:
        super().__init__()
        self.first = ItemLayer(widths[0], widths[1])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths[1:]))
        self.activation = activation_layer(activation)

    def forward(self, items: Tensor) -> Tensor:
        h: Tensor = self.activation(self.first(items.T))
        for layer in self.layers:
            h = self.activation(layer(h))
        return h


class _Decoder(nn.Module):
    """Latent [B, d] -> logits [n, B], an activation after every layer but the last."""

    def __init__(self, widths: Sequence[int], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths[:-1]))
        self.last = nn.Linear(widths[-2], widths[-1])
        self.activation = activation_layer(activation)

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = self.activation(layer(h))
        return torch.addmm(self.last.bias[:, None], self.last.weight, h.T)


class CategoryVAE(nn.Module):
    """The autoencoder of DiffRec's section 3.3.

    Inside, items stand in category order, one row of every large matrix each; :meth:`ordered` and :meth:`restored` lead
    there and back. The assignment is part of the state: loading takes over the stored one, whatever this one was made with.
    Weights start Xavier-normal, biases at 0.

    Args:
        category: LongTensor ``[n_items]``, values 0 .. n_categories - 1, none missing.
        latent: widths from the latent outwards, ``[d, ..., first hidden layer]``; each is split among the categories in
            proportion to their items.
        decoder: hidden widths of the decoders from the latent to the items, split alike. Empty: a single linear layer from
            the whole latent to all items.
        activation: see :func:`recbole_diffusion.diffusion.denoisers.activation_layer`.
        dropout: probability of dropping an item of the input while training, in [0, 1).
        reparam: sample the latent while training; else the mean is taken.

    Raises:
        ValueError: a width below the number of categories.
    """

    category: Tensor
    order: Tensor
    place: Tensor

    def __init__(
        self,
        category: Tensor,
        latent: Sequence[int],
        decoder: Sequence[int],
        activation: str = "tanh",
        dropout: float = 0.1,
        reparam: bool = True,
    ) -> None:
        super().__init__()
        self.dims, self.reparam = list(latent), reparam
        self._arrange(category)
        encoder = [shares(width, self.sizes) for width in [*reversed(latent[1:]), latent[0]]]
        self.encoders = nn.ModuleList(
            _Encoder([n, *hidden, 2 * d], activation) for n, *hidden, d in zip(self.sizes, *encoder, strict=True)
        )
        hidden = [shares(width, self.sizes) for width in decoder]
        widths = zip(self.split, *hidden, self.sizes, strict=True) if decoder else [(latent[0], len(category))]
        self.decoders = nn.ModuleList(_Decoder(each, activation) for each in widths)
        self.dropout = FastDropout(dropout)
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, ItemLayer)):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def _arrange(self, category: Tensor) -> None:
        order = torch.argsort(category, stable=True)
        self.sizes: list[int] = torch.bincount(category).tolist()
        self.split = shares(self.dims[0], self.sizes)
        self.register_buffer("category", category)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", torch.argsort(order), persistent=False)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}category", self.category).to(self.category, copy=True)
        if stored.shape == self.category.shape and not torch.equal(stored, self.category):
            self._arrange(stored)
            for name, parameter in self.named_parameters():  # in place: an optimiser may hold them
                parameter.data = parameter.data.new_empty(state_dict[f"{prefix}{name}"].shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def ordered(self, x: Tensor) -> Tensor:
        """Columns ``[B, n_items]`` from the data set's order to category order."""
        return x if len(self.sizes) == 1 else x.T.index_select(0, self.order).T

    def restored(self, x: Tensor) -> Tensor:
        """Columns ``[B, n_items]`` from category order to the data set's."""
        return x if len(self.sizes) == 1 else x.T.index_select(0, self.place).T

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[B, n_items]`` in category order -> mean and log-variance of q(z | x), each ``[B, d]``."""
        parts = self.dropout(x.T).split(self.sizes)
        halves = [encoder(part).chunk(2, dim=1) for encoder, part in zip(self.encoders, parts, strict=True)]
        mean, log_var = (torch.cat(half, dim=1).to(x.dtype) for half in zip(*halves, strict=True))
        return mean, log_var

    def sample(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """A draw of q(z | x) while training, else its mean ``[B, d]``."""
        if not (self.training and self.reparam):
            return mean
        return torch.addcmul(mean, torch.exp(0.5 * log_var), torch.randn_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``[B, d]`` -> logits of p(x | z), ``[B, n_items]`` in category order."""
        if len(self.decoders) == 1:
            return self.decoders[0](z).T
        return torch.cat([decoder(part) for decoder, part in zip(self.decoders, z.split(self.split, 1), strict=True)]).T
