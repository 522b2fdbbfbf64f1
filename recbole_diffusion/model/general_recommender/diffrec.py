"""DiffRec: Wang et al., "Diffusion Recommender Model", SIGIR 2023."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType

from recbole_diffusion.diffusion.denoisers import ACTIVATIONS, ItemMLP
from recbole_diffusion.diffusion.exact import HiddenChain
from recbole_diffusion.diffusion.noise import Noise, keyed_noise
from recbole_diffusion.diffusion.objective import training_loss
from recbole_diffusion.diffusion.process import Denoiser, GaussianDiffusion
from recbole_diffusion.diffusion.samplers import ancestral, time_grid
from recbole_diffusion.diffusion.schedule import SCHEDULES, make_betas
from recbole_diffusion.diffusion.timesteps import ImportanceTimesteps
from recbole_diffusion.model.accelerate import accelerate
from recbole_diffusion.model.derived import DerivedFromWeights
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.row_scorer import RowScorer
from recbole_diffusion.settings import Settings, SettingsError, setting

FIRST_BETA = 1e-5  # the paper's fixed variance of the first step


@dataclasses.dataclass(frozen=True)
class DiffRecSettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/DiffRec.yaml``."""

    steps: int = setting(ge=1)
    noise_schedule: str = setting(choices=tuple(SCHEDULES))
    noise_scale: float = setting(ge=0)
    noise_min: float = setting(gt=0, lt=1)
    noise_max: float = setting(gt=0, lt=1)
    beta_fixed: bool = setting()
    mean_type: str = setting(choices=("x0", "eps"))
    reweight: bool = setting()
    history_num_per_term: int = setting(ge=1)
    sampling_steps: int = setting(ge=0, scoring=True)
    sampling_noise: bool = setting(scoring=True)
    sampler: str = setting(choices=("exact", "ancestral"), scoring=True)
    dims_dnn: tuple[int, ...] = setting(ge=1)
    embedding_size: int = setting(ge=2)
    mlp_act_func: str = setting(choices=tuple(ACTIVATIONS))
    dropout: float = setting(ge=0, lt=1)
    norm: bool = setting()
    time_aware: bool = setting(key="time-aware")
    w_min: float = setting(ge=0)
    w_max: float = setting(gt=0)

    def __post_init__(self) -> None:
        for low, high in (("noise_min", "noise_max"), ("w_min", "w_max"), ("sampling_steps", "steps")):
            if getattr(self, low) > getattr(self, high):
                raise SettingsError(f"{low} = {getattr(self, low)!r}: must be <= {high} = {getattr(self, high)!r}")
        if self.noise_scale * self.noise_max >= 1:
            raise SettingsError(f"noise_scale = {self.noise_scale!r}: noise_scale * noise_max must be < 1")
        if self.noise_scale > 0:
            self.betas()

    def betas(self) -> torch.Tensor:
        """The schedule, ``[steps]``."""
        start, end = self.noise_scale * self.noise_min, self.noise_scale * self.noise_max
        try:
            return make_betas(self.noise_schedule, self.steps, start, end, FIRST_BETA if self.beta_fixed else None)
        except ValueError as error:
            raise SettingsError(f"noise_schedule = {self.noise_schedule!r}: {error}") from error


class DiffRec(DerivedFromWeights, RowScorer, GeneralRecommender):
    """DiffRec (SIGIR 2023): denoises a user's row of interactions, few steps, little noise.

    Training is Algorithm 1, scoring Algorithm 2 of the paper.

    Departures from the paper: none known in the algorithm. From the official code: the factor 1/2 of Eq. 11 stands (they
    leave it out), and the weight for eps-prediction is the one that follows from Eq. 11; their schedule ``cosine`` is
    ``cosine-iddpm`` here, and ``binomial`` ends at .999, theirs and RecBole's at 1/2. From RecBole's port: defaults are
    the official ones (schedule, widths, AdamW); the padding item is no column of x; the padding user and users without
    history are not trained on; the loss history is saved with the model; ``eval_batch_size`` counts users.
    ``dims_dnn`` lists the hidden widths in order, as in RecBole; the official ``[200, 600]`` is mirrored to 600-200-600.
    With ``noise_scale = 0`` the network is trained on clean rows and applied ``steps`` times, as in both.

    Scoring noise (``sampling_steps > 0`` or ``sampling_noise``) is a function of seed and user, so a score does not depend
    on the batch it is computed in.
    """

    input_type = InputType.LISTWISE
    settings_class = DiffRecSettings
    likelihood_of = "the user's training row"  # what elbo_batch's x_0 is, for the table of terms

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = self.settings_class.read(config)
        self.noise_seed = config["seed"]
        self.read_histories(dataset)
        self.network = self._new_network()
        self.timesteps = ImportanceTimesteps(s.steps, s.history_num_per_term)
        self.process = GaussianDiffusion(s.betas()) if s.noise_scale > 0 else None
        accelerate(config, self.network)

    def _new_network(self) -> ItemMLP:
        return self._denoiser(self.n_items - 1)

    def _denoiser(self, width: int) -> ItemMLP:
        """The denoiser of rows of that width."""
        s = self.settings
        return ItemMLP(width, s.dims_dnn, s.embedding_size, s.mlp_act_func, dropout=s.dropout, normalize=s.norm)

    def read_histories(self, dataset: Any) -> None:
        """Takes the users' rows from another part of the data (see :mod:`recbole_diffusion.adapter.eval_input`)."""
        weights = (self.settings.w_min, self.settings.w_max) if self.settings.time_aware else None
        self.rows = InteractionRows.from_dataset(dataset, weights).to(self.device)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Algorithm 1: importance-sampled steps, squared error weighted by Eq. 11, divided by the steps' probability."""
        return self._diffuse(self.rows.dense(interaction[self.USER_ID]))[0]

    def _diffuse(self, x_0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of ``[B, width]`` at random steps; x_t, t and the network's output there."""
        t, weight = self.timesteps.sample(len(x_0))
        if self.process is None:
            x_t, output = x_0, self.network(x_0, t)
            losses = (output - x_0).square().mean(1)
        else:
            eps = torch.randn_like(x_0.T).T  # of a transposed view, randn_like takes ten times as long
            x_t = self.process.q_sample(x_0, t, eps)
            output = self.network(x_t, t)
            losses = training_loss(self.process, self.settings.mean_type, output, x_0, eps, x_t, t, self.settings.reweight)
        self.timesteps.update(t, losses.detach())
        return (losses / weight).mean(), x_t, t, output

    def elbo_batch(self, interaction: Any) -> tuple[Denoiser, torch.Tensor]:
        """What the ELBO is of: ``(denoise, x_0)``, x_0 the users' training rows ``[B, n_items - 1]``.

        It is the training row whatever part the users come from: Algorithm 1 fits it and Algorithm 2 starts from it.

        Raises:
            SettingsError: trained without noise, hence without a likelihood.
        """
        if self.process is None:
            raise SettingsError("noise_scale = 0.0: a model trained without noise has no likelihood terms")
        return self.process.denoiser(self.network, self.settings.mean_type), self.rows.dense(interaction[self.USER_ID])

    @property
    def network_calls(self) -> int:
        """How often a user goes through the denoiser for its scores; in hidden space, through all of it but the items."""
        return self.settings.steps

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        noise = keyed_noise(users, self.noise_seed)
        if self._has_hidden_chain():
            self._chain().scores(
                self.rows.sparse(users),
                t_prime=self.settings.sampling_steps,
                noise=noise,
                sampling_noise=self.settings.sampling_noise,
                out=out,
            )
        else:
            out[:] = self._plain_scores(self.rows.dense(users), noise)

    def _has_hidden_chain(self) -> bool:
        s = self.settings
        noisy = s.sampling_noise or s.sampling_steps > 0
        return s.sampler == "exact" and self.process is not None and HiddenChain.supports(self.network, s.mean_type, noisy)

    def _chain(self) -> HiddenChain:
        """The chain in hidden space."""
        return self.derived(
            self.network.parameters(), lambda: HiddenChain(self.network, self.process, self.settings.mean_type)
        )

    def _plain_scores(self, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Algorithm 2 as it is written, from clean rows ``[B, width]``."""
        if self.process is None:
            for step in reversed(range(self.settings.steps)):
                x = self.network(x, torch.full((len(x),), step, device=x.device))
            return x
        if self.settings.sampling_steps > 0:
            t = torch.full((len(x),), self.settings.sampling_steps - 1, device=x.device)
            x = self.process.q_sample(x, t, noise(x, 0))
        denoise = self.process.denoiser(self.network, self.settings.mean_type)
        return ancestral(
            denoise, x, self.process, time_grid(self.process), noise=noise if self.settings.sampling_noise else None
        )


class TDiffRec(DiffRec):
    """T-DiffRec (SIGIR 2023): DiffRec on rows whose items are weighted by time order, the newest the most.

    The weighted row takes the 0/1 row's place as x_0 (section 3.4): it is what gets noisy, what the network is to estimate,
    and what scoring starts from, as in the official code and RecBole's port. It is DiffRec with ``time-aware: True``. A user's
    single item weighs ``w_min``, as there. Defaults are DiffRec's ML-1M settings with the official weights for Amazon-book.
    """
