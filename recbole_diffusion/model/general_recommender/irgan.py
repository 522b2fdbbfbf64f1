"""IRGAN: Wang et al., "IRGAN: A Minimax Game for Unifying Generative and Discriminative IR Models", SIGIR 2017."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import nn
from torch.nn.functional import softplus

from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.row_scorer import RowScorer
from recbole_diffusion.settings import Settings, setting

_CHUNK = 256  # users at a time where all of them are needed


@dataclasses.dataclass(frozen=True)
class IRGANSettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/IRGAN.yaml``."""

    embedding_size: int = setting(ge=1)
    pretrain_epochs: int = setting(ge=0)
    pretrain_learning_rate: float = setting(gt=0)
    pretrain_batch_size: int = setting(ge=1)
    dns_candidates: int = setting(ge=1)
    temperature: float = setting(gt=0)
    importance_mix: float = setting(ge=0, lt=1)
    policy_samples: int = setting(ge=1)
    g_steps: int = setting(ge=1)
    d_steps: int = setting(ge=1)
    d_learning_rate: float = setting(gt=0)
    d_weight_decay: float = setting(ge=0)
    d_batch_size: int = setting(ge=1)


class Factors(nn.Module):
    """Matrix factorisation ``s(u, j) = p_u q_j + b_j``; ``j`` counts items from 0, padding left out."""

    def __init__(self, n_users: int, n_items: int, width: int) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.empty(n_users, width).normal_(std=0.1))
        self.item = nn.Parameter(torch.empty(n_items, width).normal_(std=0.1))
        self.bias = nn.Parameter(torch.zeros(n_items))

    def forward(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items, ``[B, n_items]``."""
        return torch.addmm(self.bias, self.user[users], self.item.T)

    def pairs(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of items ``[B, k]`` for users ``[B]``."""
        return (self.user[users, None] * self.item[items]).sum(2) + self.bias[items]


class IRGAN(RowScorer, GeneralRecommender):
    """IRGAN (SIGIR 2017): a generator picks items by policy gradient, a discriminator tells them from the user's own.

    The paper's item recommendation: generator and discriminator are matrix factorisations with scores ``s`` and ``f``.

    - pretraining of the generator: dynamic negative sampling (DNS, Zhang et al. 2013): of some random items that the user
      has not, the one with the highest score is the negative of a BPR pair;
    - discriminator: ``-log sigma(f(u, i)) - log(1 - sigma(f(u, j)))`` for the user's own items ``i`` and as many
      ``j ~ softmax(s(u, .) / temperature)``, drawn anew for each pass;
    - generator: ascends ``E_{j ~ p} R(u, j)`` with ``p = softmax(s(u, .))`` by REINFORCE. Items are drawn from
      ``q = (1 - mix) p + mix (uniform over the user's own)`` and weighted by ``p / q``, so the gradient stays unbiased. The
      reward is the official code's ``R = 2 (sigma(f(u, j)) - 1/2)``; the paper's is ``log(1 + exp f)``.

    A user's scores are the generator's. Departures from the paper and its code, for RecBole's data sizes: whole batches of
    users with a softmax over all items at once, not one user at a time; ``policy_samples`` draws per user, not twice the
    number of their items; Adam, not SGD with step 1e-3 on batches of 16; an epoch of the game is a few passes of either
    player, not 100 and 50; wider vectors; the discriminator starts at random.

    Pretraining is the first ``pretrain_epochs`` epochs of one ``fit``, during which early stopping does not count. The epoch
    that is kept is the best on validation, and can be one of them: the record's ``best_epoch`` tells. On ml-100k the game
    first costs what pretraining has gained, and needs some 80 epochs to win it back.
    """

    input_type = InputType.LISTWISE
    settings_class = IRGANSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = IRGANSettings.read(config)
        self.rows = InteractionRows.from_dataset(dataset)
        self.generator = Factors(self.n_users, self.rows.n_items, s.embedding_size)
        self.discriminator = Factors(self.n_users, self.rows.n_items, s.embedding_size)
        accelerate(config, self.generator, self.discriminator)

    # ----------------------------------------------------------------------------------------------- pretraining

    def pretraining_loss(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """BPR of interactions ``[B]`` against dynamic negatives; those without a negative count 0."""
        size = (len(users), self.settings.dns_candidates)
        negatives, found = self.hardest(users, torch.randint(self.rows.n_items, size, device=users.device))
        scores = self.generator.pairs(users, torch.stack([items, negatives], 1))
        return (softplus(scores[:, 1] - scores[:, 0]) * found).mean()

    @torch.no_grad()
    def hardest(self, users: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """DNS: of ``candidates`` ``[B, k]`` that the user has not, the one with the highest score; ``[B]``, and whether any."""
        scores = self.generator.pairs(users, candidates)
        scores = scores.masked_fill(self.rows.contains(users, candidates), -torch.inf)
        best, place = scores.max(1)
        return candidates.gather(1, place[:, None])[:, 0], best > -torch.inf

    # ------------------------------------------------------------------------------------------------- the game

    @torch.no_grad()
    def generate(self) -> torch.Tensor:
        """For every interaction, in the order of ``rows.col``, one item that the generator puts in its place."""
        fakes = []
        for users in torch.arange(self.n_users, device=self.rows.crow.device).split(_CHUNK):
            number = self.rows.crow[users + 1] - self.rows.crow[users]
            p = (self.generator(users) / self.settings.temperature).softmax(1)
            drawn = torch.multinomial(p, max(self.rows.longest, 1), replacement=True)
            fakes.append(drawn[torch.arange(drawn.shape[1], device=users.device) < number[:, None]])
        return torch.cat(fakes)

    def discriminator_loss(self, users: torch.Tensor, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """How the user's own items are told from the fakes, mean over interactions ``[B]``."""
        logits = self.discriminator.pairs(users, torch.stack([real, fake], 1))
        return (softplus(-logits[:, 0]) + softplus(logits[:, 1])).mean()

    def generator_loss(self, users: torch.Tensor) -> torch.Tensor:
        """Minus the reward that users ``[B]`` are expected to give; its gradient is the policy gradient."""
        with torch.no_grad():
            items = torch.multinomial(self.proposal(users), self.settings.policy_samples, replacement=True)
        return self.policy_loss(users, items).mean()

    def proposal(self, users: torch.Tensor) -> torch.Tensor:
        """What items are drawn from, ``[B, n_items]``: the generator's softmax mixed with the user's own items."""
        own, mix = self.rows.dense(users), self.settings.importance_mix
        return (1 - mix) * self.generator(users).softmax(1) + mix * own / own.sum(1, keepdim=True)

    def policy_loss(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """``-(p / q) R log p`` of items ``[B, k]`` that were drawn from the proposal ``q``; the ratio is taken as constant."""
        log_p = self.generator(users).log_softmax(1)
        with torch.no_grad():
            ratio = (log_p.exp() / self.proposal(users)).gather(1, items)
            reward = 2 * (self.discriminator.pairs(users, items).sigmoid() - 0.5)
        return -ratio * reward * log_p.gather(1, items)

    # ------------------------------------------------------------------------------------------------- scoring

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        out[:] = self.generator(users)
