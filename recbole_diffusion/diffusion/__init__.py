"""Diffusion processes, one piece per file, on torch and the standard library alone.

A network predicts x_0, eps or v; ``GaussianDiffusion.denoiser`` makes ``denoise(x_t, t) -> x0_hat`` of it; samplers
take that and an explicit grid of times. Networks know no betas, samplers no parameterisations, and all noise is handed
in. ``t`` is 0-based everywhere: code t = 0 is the papers' t = 1 (:mod:`~recbole_diffusion.diffusion.process` says it in
full). Processes that are not Gaussian share the names that they have a use for: ``q_sample``, ``posterior`` (the bridge and
absorbing diffusion), ``prior`` for x_T where that is not noise that is handed in, and ``step`` from t to s, which
``samplers.stepwise`` repeats. ``PriorDiffusion`` has ``marginal_step`` in its place: it passes on distributions, not draws.

====================================================================  ==================================================
equation                                                              where
====================================================================  ==================================================
beta_t: linear, cosine, DiffRec's linear variance (Eq. 4), ...        ``schedule.make_betas``
q(x_t | x_{t-1}), q(x_t | x_0) (Ho et al. 2020, Eq. 2 and 4)          ``GaussianDiffusion.q_step``, ``.q_sample``
q(x_{t-1} | x_t, x_0) (Ho et al. Eq. 6 and 7; DiffRec Eq. 10)         ``GaussianDiffusion.posterior``
x_0 from eps, v and back; SNR                                         ``GaussianDiffusion.x0_from_eps``, ``.snr``, ...
Algorithm 1 of Ho et al. and of DreamRec: the plain squared error     ``objective.training_loss(reweight=False)``
DiffRec Eq. 11 and 12: the error weighed by SNR differences           ``objective.training_loss(reweight=True)``
DiffRec section 3.3: importance sampling of t                         ``timesteps.ImportanceTimesteps``
L_T, L_{t-1}, L_0 in nats (Ho et al. Eq. 5)                           ``objective.elbo_terms``
Algorithm 2 of Ho et al. and of DreamRec: ancestral sampling          ``samplers.ancestral(noise=...)``
Algorithm 2 of DiffRec: posterior means only                          ``samplers.ancestral(noise=None)``
DDIM (Song et al. 2021, Eq. 12), DPM-Solver++(2M) (Algorithm 2)       ``samplers.ddim``, ``samplers.dpmpp_2m``
f~ = (1 + w) f(x, c, t) - w f(x, Phi, t)                              ``guidance.classifier_free``
DiffRec's and DreamRec's networks and time embeddings                 ``denoisers.ItemMLP``, ``.ConditionedDenoiser``
the law of all T steps of an affine denoiser, in one product          ``exact.affine_chain``
deterministic DDIM of an affine denoiser, in one product              ``exact.affine_ddim``
DiffRec's reverse chain without item-sized intermediates              ``exact.HiddenChain``
Brownian bridge to an end point, and its posterior (BBDRec)           ``bridge.BrownianBridge``
straight paths and Euler steps (rectified flow; FMRec)                ``flow.RectifiedFlow``
0/1 rows mixed with draws of popularity (FlowCF)                      ``flow.BernoulliFlow``
heat on the graph of items and its reverse step (GiffCF)              ``heat.GraphHeat``
its reverse pass with a single product with the graph                 ``heat.deferred``
blur and sharpen as one polynomial (BSPM)                             ``heat.sharpen``
absorbing diffusion of tokens; one token is cross-entropy             ``absorbing.AbsorbingDiffusion``
diffusion of a token towards a prior's draw                           ``prior.PriorDiffusion``
the reverse pass of these, over any grid                              ``samplers.stepwise``
====================================================================  ==================================================
"""

from recbole_diffusion.diffusion.absorbing import AbsorbingDiffusion
from recbole_diffusion.diffusion.bridge import BrownianBridge, bridge_levels
from recbole_diffusion.diffusion.denoisers import ConditionedDenoiser, ItemMLP, activation_layer, sinusoidal_embedding
from recbole_diffusion.diffusion.exact import AffineChain, HiddenChain, affine_chain, affine_ddim
from recbole_diffusion.diffusion.flow import BernoulliFlow, RectifiedFlow
from recbole_diffusion.diffusion.guidance import classifier_free
from recbole_diffusion.diffusion.heat import GraphHeat, Smooth, deferred, sharpen
from recbole_diffusion.diffusion.noise import Noise, keyed_noise, stream_noise, zero_noise
from recbole_diffusion.diffusion.objective import (
    ElboTerms,
    elbo_terms,
    elbo_weight,
    posterior_kl,
    prior_kl,
    reconstruction_nll,
    training_loss,
)
from recbole_diffusion.diffusion.prior import PriorDiffusion
from recbole_diffusion.diffusion.process import PREDICTIONS, Denoiser, GaussianDiffusion, Network
from recbole_diffusion.diffusion.samplers import SAMPLERS, SteppedProcess, ancestral, ddim, dpmpp_2m, stepwise, time_grid
from recbole_diffusion.diffusion.schedule import SCHEDULES, make_betas
from recbole_diffusion.diffusion.timesteps import ImportanceTimesteps, UniformTimesteps

__all__ = [
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "AbsorbingDiffusion",
    "AffineChain",
    "BernoulliFlow",
    "BrownianBridge",
    "ConditionedDenoiser",
    "Denoiser",
    "ElboTerms",
    "GaussianDiffusion",
    "GraphHeat",
    "HiddenChain",
    "ImportanceTimesteps",
    "ItemMLP",
    "Network",
    "Noise",
    "PriorDiffusion",
    "RectifiedFlow",
    "Smooth",
    "SteppedProcess",
    "UniformTimesteps",
    "activation_layer",
    "affine_chain",
    "affine_ddim",
    "ancestral",
    "bridge_levels",
    "classifier_free",
    "ddim",
    "deferred",
    "dpmpp_2m",
    "elbo_terms",
    "elbo_weight",
    "keyed_noise",
    "make_betas",
    "posterior_kl",
    "prior_kl",
    "reconstruction_nll",
    "sharpen",
    "sinusoidal_embedding",
    "stepwise",
    "stream_noise",
    "time_grid",
    "training_loss",
    "zero_noise",
]
