"""L-DiffRec: Wang et al., "Diffusion Recommender Model", SIGIR 2023, section 3.3."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_diffusion.diffusion.denoisers import ACTIVATIONS, ItemMLP
from recbole_diffusion.diffusion.noise import keyed_noise
from recbole_diffusion.diffusion.process import Denoiser
from recbole_diffusion.model.general_recommender.category_vae import CategoryVAE, gaussian_kl, multinomial_nll
from recbole_diffusion.model.general_recommender.diffrec import DiffRec, DiffRecSettings
from recbole_diffusion.model.item_clusters import cluster, read_embeddings, svd_embeddings
from recbole_diffusion.settings import SettingsError, setting


@dataclasses.dataclass(frozen=True)
class LDiffRecSettings(DiffRecSettings):
    """Types and ranges; meanings and defaults are in ``properties/model/LDiffRec.yaml``."""

    n_cate: int = setting(ge=1)
    item_embeddings: str | None = setting()
    svd_rank: int = setting(ge=1)
    in_dims: tuple[int, ...] = setting(ge=1)
    out_dims: tuple[int, ...] = setting(ge=1, empty=True)
    ae_act_func: str = setting(choices=tuple(ACTIVATIONS))
    ae_dropout: float = setting(ge=0, lt=1)
    reparam: bool = setting()
    lamda: float = setting(ge=0)
    anneal_cap: float = setting(ge=0)
    anneal_steps: int = setting(ge=0)
    vae_anneal_cap: float = setting(ge=0)
    vae_anneal_steps: int = setting(ge=0)
    denoiser_learning_rate: float = setting(gt=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        narrowest = min((*self.in_dims, *self.out_dims))
        if self.n_cate > narrowest:
            raise SettingsError(f"n_cate = {self.n_cate!r}: must be <= every width of in_dims and out_dims, {narrowest}")


class LDiffRec(DiffRec):
    """L-DiffRec (SIGIR 2023): clusters the items, compresses each cluster with a VAE, diffuses in the latent space.

    The loss is the multinomial likelihood of the row given the denoised latent, the annealed KL of the VAE, and lambda times
    Algorithm 1's loss in the latent space, through which gradients reach the encoder as well. Scoring takes the mean of
    the latent through Algorithm 2 and decodes it. The categories are part of a checkpoint. To load one without the file that
    ``item_embeddings`` named: ``load_data_and_model(file, overrides={"item_embeddings": None})``.

    Departures from the paper: lambda falls while training and the KL's weight rises, as in the official code.
    From the official code and RecBole's port: the likelihood is of the whole row (theirs: of what the autoencoder's dropout
    has left, scaled up); the factor 1/2 of Eq. 11 stands, so the default ``lamda`` and ``anneal_cap`` are twice the official
    ones; widths are split among the categories as evenly as rounding allows (theirs round down, the last category takes the
    rest); the decoders' hidden widths ``out_dims`` are split alike (with several categories theirs mirror the encoder).
    From the official code: ``anneal_steps`` counts batches (theirs counts epochs); without ``reweight`` lambda still weighs
    the diffusion loss (there: the autoencoder's).
    From RecBole's port: defaults are the official ones; AdamW, with a rate for each of the two parts; beta_1 is not fixed; the
    padding item is in no category; ``item_embeddings`` go by the items' own ids, and an SVD makes them where there are
    none; categories and annealing are saved with the model.
    As in both, and not in the paper: an activation after the encoder's last layer, so that ``tanh`` bounds means and
    log-variances.
    """

    settings_class = LDiffRecSettings
    likelihood_of = "the latent mean of the user's training row"
    updates: torch.Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings
        self.autoencoder = CategoryVAE(
            torch.from_numpy(self._categories(dataset)), s.in_dims, s.out_dims, s.ae_act_func, s.ae_dropout, s.reparam
        )
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def _new_network(self) -> ItemMLP:
        return self._denoiser(self.settings.in_dims[0])

    def _categories(self, dataset: Any) -> np.ndarray:
        """The category of every item but the padding one, int64 ``[n_items - 1]``."""
        s, n_items = self.settings, self.n_items - 1
        if s.n_cate == 1:
            return np.zeros(n_items, dtype=np.int64)
        if s.item_embeddings is not None:
            tokens = dataset.id2token(dataset.iid_field, np.arange(1, self.n_items)).tolist()
            points = read_embeddings(s.item_embeddings, tokens)
        else:
            crow, col = self.rows.crow.cpu().numpy(), self.rows.col.cpu().numpy()
            matrix = scipy.sparse.csr_matrix((np.ones(len(col)), col, crow), shape=(len(crow) - 1, n_items))
            points = svd_embeddings(matrix, s.svd_rank, self.noise_seed)
        return cluster(points, s.n_cate, self.noise_seed)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Multinomial likelihood of the decoded estimate, KL of the latent, and lambda times Algorithm 1 in latent space."""
        x_0 = self.autoencoder.ordered(self.rows.dense(interaction[self.USER_ID]))
        mean, log_var = self.autoencoder.encode(x_0)
        diffusion, z_t, t, z_hat = self._diffuse(self.autoencoder.sample(mean, log_var))
        if self.process is not None and self.settings.mean_type == "eps":
            z_hat = self.process.x0_from_eps(z_t, t, z_hat)
        nll = multinomial_nll(self.autoencoder.decode(z_hat), x_0).mean()
        lamda, kl_weight = self._annealed()
        return nll + kl_weight * gaussian_kl(mean, log_var).mean() + lamda * diffusion

    def _annealed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of the diffusion loss and of the KL at this update, which it counts; tensors: no device is waited for."""
        s, done = self.settings, self.updates.to(torch.get_default_dtype())
        self.updates += 1
        falling = 1 - done / s.anneal_steps if s.anneal_steps else torch.ones_like(done)
        rising = done / s.vae_anneal_steps if s.vae_anneal_steps else torch.full_like(done, torch.inf)
        return (falling * s.lamda).clamp(min=s.anneal_cap), rising.clamp(max=s.vae_anneal_cap)

    def elbo_batch(self, interaction: Any) -> tuple[Denoiser, torch.Tensor]:
        """What the ELBO is of: ``(denoise, z_0)``, z_0 the latent means of the users' training rows ``[B, d]``.

        The bound is that of the latent diffusion alone, for an encoder that was learnt: it compares users and steps of one
        model, not two models.
        """
        denoise, x_0 = super().elbo_batch(interaction)
        return denoise, self.autoencoder.encode(self.autoencoder.ordered(x_0))[0]

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        z, _ = self.autoencoder.encode(self.autoencoder.ordered(self.rows.dense(users)))
        noise = keyed_noise(users, self.noise_seed)
        s = self.settings
        if self._has_hidden_chain():
            z = self._chain().scores(z, t_prime=s.sampling_steps, noise=noise, sampling_noise=s.sampling_noise)
        else:
            z = self._plain_scores(z, noise)
        out[:] = self.autoencoder.restored(self.autoencoder.decode(z))


class LTDiffRec(LDiffRec):
    """LT-DiffRec (SIGIR 2023): L-DiffRec on rows whose items are weighted by time order.

    The weighted row takes the 0/1 row's place everywhere (section 3.4): the encoder reads it, and its weights count in the
    multinomial likelihood. Categories come from the 0/1 matrix. It is L-DiffRec with ``time-aware: True``.
    """
