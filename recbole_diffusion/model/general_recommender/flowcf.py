"""FlowCF: Liu et al., "Flow Matching for Collaborative Filtering", KDD 2025."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType

from recbole_diffusion.diffusion.denoisers import ACTIVATIONS, ItemMLP
from recbole_diffusion.diffusion.flow import BernoulliFlow
from recbole_diffusion.diffusion.objective import squared_error
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.row_scorer import RowScorer
from recbole_diffusion.settings import Settings, SettingsError, setting


@dataclasses.dataclass(frozen=True)
class FlowCFSettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/FlowCF.yaml``."""

    steps: int = setting(ge=1)
    sampling_steps: int = setting(ge=1, scoring=True)
    dims_dnn: tuple[int, ...] = setting(ge=1)
    embedding_size: int = setting(ge=2)
    mlp_act_func: str = setting(choices=tuple(ACTIVATIONS))
    dropout: float = setting(ge=0, lt=1)

    def __post_init__(self) -> None:
        if self.sampling_steps > self.steps:
            raise SettingsError(f"sampling_steps = {self.sampling_steps!r}: must be <= steps = {self.steps!r}")


class FlowCF(RowScorer, GeneralRecommender):
    """FlowCF (KDD 2025): a flow of 0/1 rows from popular items to the user's row.

    Training: x_t takes each entry from the user's row or, with probability tau_t, from Bernoulli(popularity); mean squared
    error of an MLP f(x_t, s) against the row, s = 1 - tau_t. Scoring starts from the user's row at t = ``sampling_steps`` - 1;
    a step sets the entries to 1 whose probability exceeds 1/2, and the scores are f at t = 0. With the published two steps
    that is **one pass unless the network's output exceeds 1** somewhere: an unobserved entry's probability at t = 1 is f / 2.
    ``diagnostics()`` counts the flips, and ``sampling_steps: 1`` is the single pass.

    Departures from the paper: none known. From the official code: the padding item is no column of the row (there it has the
    highest popularity, since histories are padded with it), nor has the padding user a part in the popularities.
    """

    input_type = InputType.LISTWISE
    settings_class = FlowCFSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = self.settings_class.read(config)
        self.read_histories(dataset)
        users_of = torch.bincount(self.rows.col, minlength=self.rows.n_items)
        self.process = BernoulliFlow(users_of / len(self.rows.occupied()), s.steps)
        self.network = ItemMLP(self.rows.n_items, s.dims_dnn, s.embedding_size, s.mlp_act_func, dropout=s.dropout)
        accelerate(config, self.network)

    def read_histories(self, dataset: Any) -> None:
        """Takes the users' rows from another part of the data (see :mod:`recbole_diffusion.adapter.eval_input`)."""
        self.rows = InteractionRows.from_dataset(dataset).to(self.device)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Squared error of the estimated row at uniform steps, mean over users and items."""
        x_0 = self.rows.dense(interaction[self.USER_ID])
        t = torch.randint(self.settings.steps, (len(x_0),), device=x_0.device)
        return squared_error(self._estimate(self.process.q_sample(x_0, t), t), x_0).mean() / self.rows.n_items

    @property
    def network_calls(self) -> int:
        """How often a user goes through the network for its scores."""
        return self.settings.sampling_steps

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        out[:] = self._estimate_at(self._flipped(self.rows.dense(users)), 0)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """How many unobserved entries the steps before the last set to 1, over all users that have a training interaction."""
        training = self.training
        self.eval()
        users = self.rows.occupied()
        rows = (self.rows.dense(batch) for batch in users.split(1024))
        flips = sum(float((self._flipped(x) - x).sum()) for x in rows)
        self.train(training)
        return {"flips": flips, "flips_per_user": flips / len(users)}

    def _flipped(self, x: torch.Tensor) -> torch.Tensor:
        """The rows that the last pass reads: ``x`` ``[B, n]`` with what the steps before it set to 1."""
        for t in range(self.settings.sampling_steps - 1, 0, -1):
            x = self.process.step(self._estimate_at(x, t), x, t, t - 1)
        return x

    def _estimate_at(self, x_t: torch.Tensor, t: int) -> torch.Tensor:
        return self._estimate(x_t, torch.full((len(x_t),), t, device=x_t.device))

    def _estimate(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The network's estimate of the row, ``[B, n]``; it reads the paper's time s = 1 - tau_t, 0 where all is noise."""
        return self.network(x_t, 1.0 - self.process.level(t))
