"""What is minimised, and what it stands for: training losses, and the ELBO's terms in nats.

The ELBO of Ho et al. 2020 (Eq. 5), with code t = papers' t - 1:

    -log p(x_0) <= KL(q(x_T | x_0) || p(x_T))                                          L_T      prior_kl
                 + sum over t >= 1 of KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))    L_{t-1}  posterior_kl
                 - log p(x_0 | x at t = 0)                                             L_0      reconstruction_nll

Both Gaussians of a posterior KL have the posterior's variance, so it is 1/2 (SNR_{t-1} - SNR_t) |x0_hat - x_0|^2.
DiffRec's Eq. 11 is that weight, its Eq. 12 the bare squared error in place of L_0.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.process import Denoiser, GaussianDiffusion, check_prediction


def training_loss(
    process: GaussianDiffusion,
    prediction: str,
    output: Tensor,
    x_0: Tensor,
    eps: Tensor,
    x_t: Tensor,
    t: Tensor,
    reweight: bool,
) -> Tensor:
    """Loss of each row: a squared error, averaged over all dimensions but the first.

    Args:
        process: the diffusion.
        prediction: what ``output`` estimates, ``x0``, ``eps`` or ``v``.
        output: the network's output [B, ...].
        x_0: clean data [B, ...].
        eps: the noise [B, ...] that made ``x_t``.
        x_t: ``process.q_sample(x_0, t, eps)`` [B, ...].
        t: LongTensor [B].
        reweight: False gives the plain mean squared error in the predicted quantity (Ho et al. 2020, Eq. 14 and
            Algorithm 1; DreamRec, Algorithm 1). True weighs it by :func:`elbo_weight`, i.e. DiffRec's Eq. 11 and 12.

    Returns:
        [B], not yet divided by the timestep sampler's weight.

    Raises:
        ValueError: an unknown prediction.
    """
    check_prediction(prediction)
    if prediction == "x0":
        target = x_0
    elif prediction == "eps":
        target = eps
    else:
        target = process.v_from_x0_eps(x_0, t, eps)
    loss = squared_error(output, target) / math.prod(output.shape[1:])
    return elbo_weight(process, t, prediction).to(loss.dtype) * loss if reweight else loss


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 of each row: [B, ...] -> [B].

    As one step of the graph: of what autograd would do for the difference, its square and their sum, it leaves one pass
    over the data forwards and one backwards.
    """
    error: Tensor = _SquaredError.apply(a, b)  # type: ignore[no-untyped-call]
    return error


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        ctx.save_for_backward(difference)
        return difference.square().flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (difference,) = ctx.saved_tensors
        of_a = difference * (2 * grad).view(-1, *[1] * (difference.dim() - 1))
        return of_a, -of_a if ctx.needs_input_grad[1] else None


def elbo_weight(process: GaussianDiffusion, t: Tensor, prediction: str = "x0") -> Tensor:
    """What the squared error in the predicted quantity is multiplied by to give DiffRec's loss at t.

    For t >= 1 (the papers' t > 1), the posterior KL of Eq. 11:

    * ``x0``: 1/2 (SNR_{t-1} - SNR_t) = 1/2 abar_{t-1} beta_t / ((1 - abar_{t-1}) (1 - abar_t)),
    * ``eps``: beta_t / (2 alpha_t (1 - abar_{t-1})) (Ho et al. 2020, Eq. 12 with sigma_t^2 the posterior variance),
    * ``v``: 1/2 abar_{t-1} beta_t / (1 - abar_{t-1}),

    the last two being the first times the squared factor between the errors, in forms that neither cancel nor divide by
    zero. At t = 0 it is Eq. 12, the squared error of x0_hat: 1, (1 - abar_0)/abar_0, 1 - abar_0. DiffRec's official
    code and RecBole's port leave out the 1/2 for x0 and use another weight for eps.

    Returns:
        float64 [B].

    Raises:
        ValueError: an unknown prediction.
    """
    check_prediction(prediction)
    beta, noise_var = process.betas[t], process.one_minus_alphas_cumprod[t]
    first = t == 0
    # 1 - abar_{t-1} is 0 at the first step, which has a weight of its own.
    noise_var_prev = torch.where(first, 1.0, process.one_minus_alphas_cumprod[(t - 1).clamp(min=0)])
    if prediction == "x0":
        later = process.alphas_cumprod_prev[t] * beta / (2 * noise_var_prev * noise_var)
        return torch.where(first, 1.0, later)
    if prediction == "eps":
        later = beta / (2 * process.alphas[t] * noise_var_prev)
        return torch.where(first, noise_var / process.alphas_cumprod[t], later)
    later = process.alphas_cumprod_prev[t] * beta / (2 * noise_var_prev)
    return torch.where(first, noise_var, later)


class ElboTerms(NamedTuple):
    """The negative ELBO of each row and its terms, in nats, summed over dimensions."""

    prior_kl: Tensor
    """L_T [B]."""
    posterior_kl: Tensor
    """L_{t-1} [B, T-1]; column i is code t = i + 1."""
    reconstruction_nll: Tensor
    """L_0 [B]."""
    total: Tensor
    """Their sum [B], an upper bound on -log p(x_0)."""


def elbo_terms(
    denoise: Denoiser,
    x_0: Tensor,
    process: GaussianDiffusion,
    noise: Noise,
    decoder_var: float | None = None,
) -> ElboTerms:
    """The negative ELBO of each row (Ho et al. 2020, Eq. 5), with one draw of x_t for each t.

    The expectations over q(x_t | x_0) are estimated without bias by a single draw; average over rows, or over calls,
    for less spread. L_T and the weights are exact.

    Args:
        denoise: (x_t, t) -> x0_hat.
        x_0: clean data [B, ...].
        process: the diffusion.
        noise: draw number t makes x_t.
        decoder_var: see :func:`reconstruction_nll`.

    Returns:
        The terms in nats, in float64.
    """
    kls = []
    nll = x_0
    for step in range(process.n_steps):
        t = torch.full((len(x_0),), step, dtype=torch.long, device=x_0.device)
        x0_hat = denoise(process.q_sample(x_0, t, noise(x_0, step)), t)
        if step == 0:
            nll = reconstruction_nll(process, x0_hat, x_0, decoder_var)
        else:
            kls.append(posterior_kl(process, x0_hat, x_0, t))
    posterior = torch.stack(kls, dim=1) if kls else nll.new_zeros(len(x_0), 0)
    prior = prior_kl(process, x_0)
    return ElboTerms(prior, posterior, nll, prior + posterior.sum(dim=1) + nll)


def prior_kl(process: GaussianDiffusion, x_0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, I)) of each row, in nats, float64 [B] (Ho et al. 2020, Eq. 5).

    1/2 sum over dimensions of abar_T x_0^2 - abar_T - log(1 - abar_T).
    """
    abar, noise_var = process.alphas_cumprod[-1], process.one_minus_alphas_cumprod[-1]
    x_0 = x_0.double().flatten(1)
    return 0.5 * (abar * (x_0.square() - 1.0) - torch.log(noise_var)).sum(dim=1)


def posterior_kl(process: GaussianDiffusion, x0_hat: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
    """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || q(x_{t-1} | x_t, x0_hat)) of each row, in nats, float64 [B].

    1/2 (SNR_{t-1} - SNR_t) |x0_hat - x_0|^2, summed over dimensions (DiffRec, Eq. 11). For t >= 1 only: at the first
    step the posterior is a point, and :func:`reconstruction_nll` takes the KL's place.
    """
    error = (x0_hat.double() - x_0.double()).square().flatten(1).sum(dim=1)
    return elbo_weight(process, t, "x0") * error


def reconstruction_nll(
    process: GaussianDiffusion, x0_hat: Tensor, x_0: Tensor, decoder_var: float | None = None
) -> Tensor:
    """L_0 = -log N(x_0; x0_hat, decoder_var I) of each row, in nats, float64 [B].

    Neither paper defines a density for its last step, so this is a convention: a Gaussian decoder around x0_hat =
    f(x_t, 0), the mean of the reverse chain's last step, with variance beta_1 by default (sigma_1^2 = beta_1 in Ho et
    al. 2020, section 3.2). It is a density, so it can be negative, and it moves with ``decoder_var``: compare models at
    the same value.

    Args:
        process: the diffusion.
        x0_hat: the estimate [B, ...] from x_t at t = 0.
        x_0: clean data [B, ...].
        decoder_var: the decoder's variance, above 0; None is beta_1.

    Raises:
        ValueError: a variance that is not above 0.
    """
    if decoder_var is not None and not 0 < decoder_var < math.inf:
        raise ValueError(f"decoder_var={decoder_var!r} must be positive and finite")
    var = process.betas[0] if decoder_var is None else process.betas.new_tensor(decoder_var)
    error = (x0_hat.double() - x_0.double()).square().flatten(1)
    return 0.5 * (error / var + torch.log(2 * math.pi * var)).sum(dim=1)
