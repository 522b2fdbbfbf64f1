"""Closed forms of whole reverse chains, for the two denoisers that have one.

:func:`affine_chain` composes the T ancestral steps of an affine denoiser (DreamRec's ``mlp1``) into one Gaussian.
:class:`HiddenChain` runs DiffRec's reverse chain on W_1 x_t, as wide as the first hidden layer, instead of on x_t, as
wide as the catalogue. Neither is an approximation: the first has the loop's distribution, the second the loop's
numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_diffusion.diffusion.denoisers import ItemMLP
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.process import GaussianDiffusion, check_prediction
from recbole_diffusion.diffusion.samplers import Grid


class AffineChain(NamedTuple):
    """x_0 ~ N(u M^T + m, F F^T): what the reverse steps of an affine denoiser draw from, started at x_T ~ N(0, I)."""

    M: Tensor
    """float64 [d, d]."""
    m: Tensor
    """float64 [d]."""
    S_factor: Tensor
    """F, float64 [d, d]: of :func:`affine_chain`, the symmetric square root of the covariance."""

    def mean(self, u: Tensor) -> Tensor:
        """The mean of x_0 for each row of u [B, d], in u's type: [B, d]."""
        return torch.addmm(self.m.to(u.dtype), u, self.M.T.to(u.dtype))

    def sample(self, u: Tensor, z: Tensor) -> Tensor:
        """A draw of x_0 for each row of u [B, d], from standard normal z [B, d]: [B, d]."""
        return torch.addmm(self.mean(u), z, self.S_factor.T.to(u.dtype))

    def after(self, weight: Tensor, bias: Tensor) -> "AffineChain":
        """The law of x_0 given c, where u = c weight^T + bias; composed in float64.

        Args:
            weight: [d, k].
            bias: [d].
        """
        return AffineChain(self.M @ weight.double(), self.m + self.M @ bias.double(), self.S_factor)

    def to(self, dtype: torch.dtype) -> "AffineChain":
        """The chain in another type, so that a draw needs no conversion."""
        return AffineChain(*(part.to(dtype) for part in self))

    def covariance(self) -> Tensor:
        """The covariance of x_0, the same for every u: float64 [d, d]."""
        return self.S_factor @ self.S_factor.T


@torch.no_grad()
def affine_chain(A: Tensor, shift: Tensor, process: GaussianDiffusion, prediction: str = "x0") -> AffineChain:
    """Compose the reverse chain of a network whose output is A x_t + u + shift_t, for any u.

    For DreamRec's ``mlp1`` with guidance, f~(x, t) = A x + B((1 + w) c - w Phi) + C tau(t) + b: guidance cancels in x,
    so u is B((1 + w) c - w Phi), one vector per user, and shift_t is C tau(t) + b. With x0_hat = p_t x_t + q_t output,
    one ancestral step (Ho et al. 2020, Algorithm 2) is

        x_{t-1} = K_t x_t + c1_t q_t (u + shift_t) + sqrt(var_t) z,   K_t = (c1_t p_t + c2_t) I + c1_t q_t A,

    and all of them compose, from t = 0 upward with Q := I, into x_0 = Q x_T + M u + m + noise of covariance S:
    M += c1_t q_t Q; m += c1_t q_t Q shift_t; S += var_t Q Q^T; Q := Q K_t; at the end S += Q Q^T for x_T ~ N(0, I).
    In float64 on A's device; the cost is 2T products of d x d matrices.

    Args:
        A: [d, d], or [T, d, d] where it changes with t.
        shift: [T, d].
        process: the diffusion.
        prediction: what the output estimates, ``x0``, ``eps`` or ``v``.

    Returns:
        The law of x_0 given u.

    Raises:
        ValueError: shapes that do not fit, an unknown prediction, or a chain that overflows (so would the loop).
    """
    d, n_steps = shift.shape[-1], process.n_steps
    if shift.shape != (n_steps, d) or A.shape not in ((d, d), (n_steps, d, d)):
        raise ValueError(
            f"for T={n_steps} steps shift must be [T, d] and A [d, d] or [T, d, d]; "
            f"got shift {tuple(shift.shape)} and A {tuple(A.shape)}"
        )
    p, q = process.prediction_coefs(prediction)
    gain = (process.posterior_mean_coef1 * q).tolist()
    keep = (process.posterior_mean_coef1 * p + process.posterior_mean_coef2).tolist()
    var = process.posterior_var.tolist()
    A, shift = A.double(), shift.double()
    Q = torch.eye(d, dtype=torch.float64, device=A.device)
    M, m, S = torch.zeros_like(Q), torch.zeros_like(shift[0]), torch.zeros_like(Q)
    for t in range(n_steps):
        M.add_(Q, alpha=gain[t])
        m.addmv_(Q, shift[t], alpha=gain[t])
        S.addmm_(Q, Q.T, alpha=var[t])
        Q = torch.addmm(Q, Q, A if A.dim() == 2 else A[t], beta=keep[t], alpha=gain[t])
    S.addmm_(Q, Q.T)
    for name, value in (("mean", M), ("mean", m), ("covariance", S)):
        if not torch.isfinite(value).all():
            raise ValueError(f"the {name} of the reverse chain overflows: the denoiser diverges over {n_steps} steps")
    return AffineChain(M, m, symmetric_root(S))


@torch.no_grad()
def affine_ddim(A: Tensor, shift: Tensor, process: GaussianDiffusion, grid: Grid) -> AffineChain:
    """Compose deterministic DDIM (eta = 0) over any grid, of a network that predicts x_0 as A x_t + u + shift_t, for any u.

    A step is x_s = k1 (A x_t + u + shift_t) + k2 x_t with k2 = sqrt(1 - abar_s) / sqrt(1 - abar_t), k1 = sqrt(abar_s) - k2
    sqrt(abar_t) (:func:`recbole_diffusion.diffusion.samplers.ddim`). As in :func:`affine_chain`, but nothing is drawn on
    the way: x_0 = u M^T + m + z F^T is the very result for x_T = z, so F is no symmetric root.

    Args:
        A: [d, d].
        shift: [T, d]; the grid's times are read.
        process: the diffusion.
        grid: see :func:`recbole_diffusion.diffusion.samplers.time_grid`.
    """
    signal = [*process.alphas_cumprod.sqrt().tolist(), 1.0]
    spread = [*process.one_minus_alphas_cumprod.sqrt().tolist(), 0.0]
    A, shift = A.double(), shift.double()
    F = torch.eye(len(A), dtype=torch.float64, device=A.device)
    M, m = torch.zeros_like(F), torch.zeros_like(shift[0])
    for t, s in reversed(list(grid)):
        keep = spread[s] / spread[t]
        gain = signal[s] - keep * signal[t]
        M.add_(F, alpha=gain)
        m.addmv_(F, shift[t], alpha=gain)
        F = torch.addmm(F, F, A, beta=keep, alpha=gain)
    return AffineChain(M, m, F)


def symmetric_root(S: Tensor) -> Tensor:
    """The symmetric square root R of a covariance S [n, n], R R^T = S, in float64.

    By eigenvalues rather than Cholesky, for S may be singular; what rounding made negative counts as 0. Unlike other
    factors it is unique, so the same noise gives the same sample under any LAPACK.
    """
    values, vectors = torch.linalg.eigh(0.5 * (S + S.T).double())
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


class HiddenChain:
    """DiffRec's reverse chain in hidden space, for one state of the network's weights: build it anew when they change.

    The denoiser's first layer sees x_t only through h_t = W_1 x_t, and its output is W_out g_t + b_out with g_t the
    last hidden activation. So each posterior mean, x_{t-1} = k_t x_t + l_t (W_out g_t + b_out), becomes

        h_{t-1} = k_t h_t + l_t (K g_t + W_1 b_out),   K = W_1 W_out,

    with k_t = c1_t p_t + c2_t and l_t = c1_t q_t for x0_hat = p_t x_t + q_t output. The chain ends at a multiple of its
    start plus W_out G + L b_out, where G := k_t G + l_t g_t and L := k_t L + l_t are accumulated alongside: items
    appear once, in the last product. The network counts as in evaluation mode (no dropout).

    Args:
        network: an :class:`ItemMLP` without ``normalize``.
        process: the diffusion, on the network's device.
        prediction: ``x0``, ``eps`` or ``v``.

    Raises:
        ValueError: a network or a prediction that :meth:`supports` denies.
    """

    @staticmethod
    def supports(network: torch.nn.Module, prediction: str = "x0", noisy: bool = False) -> bool:
        """Whether the hidden chain equals the loop for this network.

        Args:
            network: the denoiser.
            prediction: ``x0``, ``eps`` or ``v``.
            noisy: whether noise enters, T' > 0 or sampling noise. Item-space noise reaches the result of an eps- or
                v-network directly, which hidden space cannot hold; an x0-network sees it through W_1 alone.
        """
        check_prediction(prediction)
        return isinstance(network, ItemMLP) and not network.normalize and (prediction == "x0" or not noisy)

    @torch.no_grad()
    def __init__(self, network: ItemMLP, process: GaussianDiffusion, prediction: str = "x0") -> None:
        if not self.supports(network, prediction):
            raise ValueError(
                f"the hidden chain needs an ItemMLP with normalize=False, got {type(network).__name__} with "
                f"normalize={getattr(network, 'normalize', None)}"
            )
        self.network, self.process, self.prediction = network, process, prediction
        W_1, W_out = network.input.weight.T, network.output.weight
        self._K_T = (W_1 @ W_out).T.contiguous()  # [h_last, h_1]
        self._W_1_b = W_1 @ network.output.bias  # [h_1]
        self._W_1_T = W_1.T  # [n_items, h_1], as it is stored: one row per item of a history
        self._root: Tensor | None = None
        t = torch.arange(process.n_steps, device=W_1.device)
        self._bias = network.time_bias(t) + network.input.bias  # [T, h_1]
        p, q = process.prediction_coefs(prediction)
        self._keep = (process.posterior_mean_coef1 * p + process.posterior_mean_coef2).tolist()
        self._gain = (process.posterior_mean_coef1 * q).tolist()
        self._std = process.posterior_var.sqrt().tolist()

    @torch.no_grad()
    def scores(
        self,
        x_0: Tensor | tuple[Tensor, Tensor, Tensor],
        *,
        t_prime: int = 0,
        noise: Noise | None = None,
        sampling_noise: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """Scores of all items, the x_0 at the end of the reverse chain (DiffRec, Algorithm 2).

        Args:
            x_0: the histories, [B, n_items], as a sparse CSR tensor or its (crow [B+1], col [nnz], values [nnz]); or a dense
                tensor, such as latents.
            t_prime: T', how many steps of noise x_0 gets first; 0 is none. In hidden space, exactly in distribution.
            noise: needed for T' > 0 (draw 0) and for sampling noise (step k takes draw k + 1), [B, h_1] each.
            sampling_noise: add the posterior's noise at every step but the last.
            out: [B, n_items] to write into, possibly a strided view; else a new tensor.

        Returns:
            [B, n_items], ``out`` if given.

        Raises:
            ValueError: T' outside [0, T], noise that is missing, or that :meth:`supports` denies.
        """
        noisy = t_prime > 0 or sampling_noise
        self._check_noise(t_prime, noise, noisy)
        dense = x_0 if isinstance(x_0, Tensor) and x_0.layout == torch.strided else None
        if dense is not None:
            h = dense @ self._W_1_T
        else:
            crow, col, values = self._parts(x_0)
            h = torch.nn.functional.embedding_bag(
                col, self._W_1_T, crow[:-1].contiguous(), mode="sum", per_sample_weights=values.to(self._W_1_T.dtype)
            )
        weight = 1.0  # of x_0 in x_t
        if t_prime > 0 and noise is not None:
            weight = float(self.process.alphas_cumprod[t_prime - 1].sqrt())
            std = float(self.process.one_minus_alphas_cumprod[t_prime - 1].sqrt())
            h = torch.addmm(h, noise(h, 0), self._noise_root(), beta=weight, alpha=std)
        G, total = h.new_zeros(len(h), self._K_T.shape[0]), 0.0
        for k, t in enumerate(reversed(range(self.process.n_steps))):
            keep, gain = self._keep[t], self._gain[t]
            g = self.network.inner(h + self._bias[t])
            G, total, weight = keep * G + gain * g, keep * total + gain, keep * weight
            if t > 0:
                h = torch.addmm(torch.add(keep * h, self._W_1_b, alpha=gain), g, self._K_T, alpha=gain)
                if sampling_noise and noise is not None:
                    h = torch.addmm(h, noise(h, k + 1), self._noise_root(), alpha=self._std[t])
        layer = self.network.output
        scores = torch.addmm(total * layer.bias, G, layer.weight.T, out=out)
        if weight != 0 and dense is not None:
            scores.add_(dense, alpha=weight)
        elif weight != 0:
            rows = torch.repeat_interleave(crow.diff(), output_size=len(col))
            scores.index_put_((rows, col), weight * values.to(scores.dtype), accumulate=True)
        return scores

    def _check_noise(self, t_prime: int, noise: Noise | None, noisy: bool) -> None:
        if not 0 <= t_prime <= self.process.n_steps:
            raise ValueError(f"t_prime={t_prime!r} must be in [0, {self.process.n_steps}]")
        if noisy and noise is None:
            raise ValueError("noise=None, but T' > 0 and sampling noise need it")
        if not self.supports(self.network, self.prediction, noisy):
            raise ValueError(f"with noise the hidden chain needs prediction='x0', got {self.prediction!r}")

    @staticmethod
    def _parts(x_0: Tensor | tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        crow, col, values = (x_0.crow_indices(), x_0.col_indices(), x_0.values()) if isinstance(x_0, Tensor) else x_0
        return crow.long(), col.long(), values

    def _noise_root(self) -> Tensor:
        """R with R R^T = W_1 W_1^T: z R is distributed as W_1 times item-space noise (R is symmetric)."""
        if self._root is None:
            W_1 = self.network.input.weight.T.double()
            self._root = symmetric_root(W_1 @ W_1.T).to(self._W_1_T.dtype)
        return self._root
