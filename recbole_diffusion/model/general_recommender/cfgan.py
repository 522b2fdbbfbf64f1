"""CFGAN: Chae et al., "CFGAN: A Generic Collaborative Filtering Framework based on GANs", CIKM 2018."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch.nn.functional import softplus

from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.derived import DerivedFromWeights
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.layers import mlp
from recbole_diffusion.model.row_scorer import RowScorer
from recbole_diffusion.settings import Settings, setting

_CHUNK = 256  # rows at a time where all of them are needed


@dataclasses.dataclass(frozen=True)
class CFGANSettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/CFGAN.yaml``."""

    mode: str = setting(choices=("item", "user"))
    scheme: str = setting(choices=("ZP", "ZR", "PM"))
    zr_ratio: float = setting(ge=0, le=1)
    zr_weight: float = setting(ge=0)
    pm_ratio: float = setting(ge=0, le=1)
    g_hidden: tuple[int, ...] = setting(ge=1)
    d_hidden: tuple[int, ...] = setting(ge=1)
    g_steps: int = setting(ge=1)
    d_steps: int = setting(ge=1)
    d_learning_rate: float = setting(gt=0)
    d_weight_decay: float = setting(ge=0)
    d_batch_size: int = setting(ge=1)


class CFGAN(DerivedFromWeights, RowScorer, GeneralRecommender):
    """CFGAN (CIKM 2018): a generator of whole purchase vectors against a discriminator that sees them masked.

    The data are rows: users' rows of items, or with ``mode: item`` items' rows of users (the paper's iCFGAN). With ``c``
    the row itself as condition, ``x`` the row as truth, ``e`` its ones, ``k`` and ``z`` sampled zeros of it:

    - generator: ``x^ = G(c)``, hidden layers sigmoid, output linear, no noise;
    - discriminator: ``D(v, c)`` = probability that ``v`` is real; fakes are ``x^ * (e + k)`` (scheme PM; ``k = 0`` in ZR);
    - loss of D: ``-log D(x, c) - log(1 - D(x^ (e + k), c))``;
    - loss of G: ``-log D(x^ (e + k), c) + alpha sum_j z_j x^_j^2`` (scheme ZR; ``z = 0`` in PM). ZP has ``k`` and ``z``.

    A user's score of an item is the generator's output, in item mode that of the item's row in the user's column.

    Departures from the paper: G's adversarial loss is the non-saturating one, not ``log(1 - D)``. ``k`` and ``z`` are given
    as shares of a row's zeros. The "G-steps" and "D-steps" of its algorithm are read as passes over all rows: an epoch is
    ``g_steps`` passes of G, then ``d_steps`` passes of D, on masks that are drawn once per epoch, and the paper's 1000 epochs
    are 1000 passes of G, 250 epochs here, where the default stops. ``weight_decay`` is the
    coefficient of half the squared norm of all weights and biases. From the official code: ``k`` and ``z`` are drawn
    independently of each other, as the paper says (there they are drawn alike), and the epoch is chosen on validation.
    Rows without interactions are not trained on.

    The masks take two bytes per cell of the matrix; in item mode scoring keeps the last hidden layer of every item.
    """

    input_type = InputType.LISTWISE
    settings_class = CFGANSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = CFGANSettings.read(config)
        self.read_histories(dataset)
        width = self.rows.n_items
        self.generator = mlp([width, *s.g_hidden, width], "sigmoid")
        self.discriminator = mlp([2 * width, *s.d_hidden, 1], "sigmoid")
        self._masks: tuple[torch.Tensor, torch.Tensor] | None = None
        accelerate(config, self.generator, self.discriminator)

    def read_histories(self, dataset: Any) -> None:
        """Takes the matrix from another part of the data (see :mod:`recbole_diffusion.adapter.eval_input`)."""
        by_user = InteractionRows.from_dataset(dataset)
        self.rows = (by_user if self.settings.mode == "user" else by_user.transposed()).to(self.device)
        self._derived = None  # the items' features depend on the matrix too

    def draw_masks(self) -> None:
        """Draws ``z`` and ``k`` of every row anew: independent, and each in its exact number."""
        s = self.settings
        shape = (len(self.rows.crow) - 1, self.rows.n_items)
        zr, pm = torch.zeros(2, *shape, dtype=torch.bool, device=self.rows.crow.device)
        for rows in self.rows.occupied().split(_CHUNK):
            observed = self.rows.dense(rows) != 0
            if "Z" in s.scheme:
                zr[rows] = sample_zeros(observed, s.zr_ratio)
            if "P" in s.scheme:
                pm[rows] = sample_zeros(observed, s.pm_ratio)
        self._masks = zr, pm

    def generator_loss(self, rows: torch.Tensor) -> torch.Tensor:
        """The generator's loss, mean over rows ``[B]``."""
        x = self.rows.dense(rows)
        fake = self.generator(x)
        loss = softplus(-self._logits(self._masked(fake, x, rows), x)).mean()
        if "Z" in self.settings.scheme:
            loss = loss + self.settings.zr_weight * (fake.square() * self._masks[0][rows]).sum(1).mean()
        return loss

    def discriminator_loss(self, rows: torch.Tensor) -> torch.Tensor:
        """The discriminator's loss, mean over rows ``[B]``."""
        x = self.rows.dense(rows)
        with torch.no_grad():
            fake = self._masked(self.generator(x), x, rows)
        return (softplus(-self._logits(x, x)) + softplus(self._logits(fake, x))).mean()

    def _masked(self, fake: torch.Tensor, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return fake * (x + self._masks[1][rows])

    def _logits(self, vectors: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Logits ``[B]`` of ``D``: log-odds of "real"."""
        return self.discriminator(torch.cat([condition, vectors], 1))[:, 0]

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        if self.settings.mode == "user":
            out[:] = self.generator(self.rows.dense(users))
        else:
            # The output layer is linear: the columns of some users are their rows of its weights on all items' features.
            output = self.generator[-1]
            torch.mm(output.weight[users - 1], self._item_features().T, out=out)
            out += output.bias[users - 1, None]

    def _item_features(self) -> torch.Tensor:
        """The last hidden layer of all items' rows ``[n_items - 1, width]``."""

        def features() -> torch.Tensor:
            items = torch.arange(1, self.n_items, device=self.rows.crow.device)
            hidden = self.generator[:-1]
            return torch.cat([hidden(self.rows.dense(chunk)) for chunk in items.split(_CHUNK)])

        return self.derived(self.generator.parameters(), features)


def sample_zeros(observed: torch.Tensor, ratio: float) -> torch.Tensor:
    """Random zeros of rows, each set of the right size equally likely.

    Args:
        observed: ``[B, n]`` bool, the cells that are not to be drawn.
        ratio: share of a row's other cells, in [0, 1]; the number of drawn ones is rounded.

    Returns:
        ``[B, n]`` bool, the cells drawn.
    """
    number = ((~observed).sum(1, keepdim=True) * ratio).round()
    keys = torch.rand(observed.shape, device=observed.device).masked_fill_(observed, 2.0)
    chosen = torch.arange(observed.shape[1], device=observed.device) < number
    return torch.zeros_like(observed).scatter_(1, keys.argsort(1), chosen)
