"""AAE: Makhzani et al., "Adversarial Autoencoders", 2015, on users' rows of interactions."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch.nn.functional import binary_cross_entropy_with_logits, dropout, log_softmax, normalize, softplus

from recbole_diffusion.diffusion.denoisers import ACTIVATIONS
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.layers import mlp
from recbole_diffusion.model.row_scorer import RowScorer
from recbole_diffusion.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class AAESettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/AAE.yaml``."""

    reconstruction: str = setting(choices=("multinomial", "bce"))
    hidden: tuple[int, ...] = setting(ge=1)
    latent_dimension: int = setting(ge=1)
    mlp_act_func: str = setting(choices=tuple(ACTIVATIONS))
    dropout: float = setting(ge=0, lt=1)
    prior_std: float = setting(gt=0)
    d_hidden: tuple[int, ...] = setting(ge=1)
    g_learning_rate: float = setting(gt=0)
    d_learning_rate: float = setting(gt=0)
    d_weight_decay: float = setting(ge=0)


class AAE(RowScorer, GeneralRecommender):
    """AAE (2015): an autoencoder of users' rows whose codes a discriminator cannot tell from Gaussian noise.

    Every batch makes the three steps of section 2: reconstruction (encoder and decoder), regularisation of the
    discriminator (codes against draws from the prior), regularisation of the generator, which is the encoder.

    - code ``z = q(x)``, deterministic (the first of section 2's three choices); prior ``N(0, prior_std^2 I)``;
    - reconstruction: ``-sum_j x_j log softmax(p(z))_j`` (as in Mult-VAE, Liang et al. 2018) or the sum over the items of
      binary cross-entropies;
    - discriminator ``D(z)``, the probability that ``z`` is from the prior: ``-log D(z_prior) - log(1 - D(q(x)))``;
    - encoder as generator: ``-log D(q(x))``, the non-saturating form of Goodfellow et al. 2014.

    The paper is about images. For rows the input is L2-normalised and dropped out while training, as in Mult-VAE; a
    user's scores are the decoder's logits. All three optimisers are of the kind that ``learner`` names (the paper: SGD).
    """

    input_type = InputType.LISTWISE
    settings_class = AAESettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = AAESettings.read(config)
        self.read_histories(dataset)
        n, d = self.rows.n_items, s.latent_dimension
        self.encoder = mlp([n, *s.hidden, d], s.mlp_act_func)
        self.decoder = mlp([d, *reversed(s.hidden), n], s.mlp_act_func)
        self.discriminator = mlp([d, *s.d_hidden, 1], s.mlp_act_func)
        accelerate(config, self.encoder, self.decoder, self.discriminator)

    def read_histories(self, dataset: Any) -> None:
        """Takes the users' rows from another part of the data (see :mod:`recbole_diffusion.adapter.eval_input`)."""
        self.rows = InteractionRows.from_dataset(dataset).to(self.device)

    def _code(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(dropout(normalize(x), self.settings.dropout, self.training))

    def reconstruction_loss(self, users: torch.Tensor) -> torch.Tensor:
        """What the row loses on the way through its code, mean over users ``[B]``."""
        x = self.rows.dense(users)
        logits = self.decoder(self._code(x))
        if self.settings.reconstruction == "multinomial":
            return -(x * log_softmax(logits, 1)).sum(1).mean()
        return binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean()

    def discriminator_loss(self, users: torch.Tensor) -> torch.Tensor:
        """Draws from the prior against the codes of ``users`` ``[B]``."""
        with torch.no_grad():
            fake = self._code(self.rows.dense(users))
        real = self.settings.prior_std * torch.randn_like(fake)
        return (softplus(-self.discriminator(real)) + softplus(self.discriminator(fake))).mean()

    def generator_loss(self, users: torch.Tensor) -> torch.Tensor:
        """How clearly the codes of ``users`` ``[B]`` are told from the prior."""
        return softplus(-self.discriminator(self._code(self.rows.dense(users)))).mean()

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        out[:] = self.decoder(self._code(self.rows.dense(users)))
