"""``recbole-diffusion elbo``: the likelihood of a trained diffusion model, in nats.

The negative ELBO of Ho et al. 2020 (Eq. 5) for the chain with the posterior's variance at every step
(:func:`recbole_diffusion.diffusion.objective.elbo_terms`). Terms are numbered as in the papers: L_0 the reconstruction,
L_1 .. L_{T-1} the posterior KLs, L_T the prior KL; L_t with t < T is code t.

What it is of, and what may be compared:

* DiffRec: a user's *training* row, whichever part the users are taken from, in nats per user. Two runs may be compared
  when they have the same rows (data, split, time weights) and the same decoder variance, which is beta_1. Neither T nor
  the rest of the schedule matters to the total, but single terms are comparable at the same schedule only. L_T is large
  because DiffRec adds little noise: it is the price of starting from N(0, I), and scoring starts from the user's row.
* DreamRec: the embedding of a target item given its history, in nats per target. Embeddings are learnt, and minus the
  logarithm of a density in d dimensions moves by d log(c) when all embeddings grow by a factor c: nats compare histories,
  parts and steps of one model, not two runs. It is the conditional model that is measured, without guidance.
* L-DiffRec: the latent mean of that row, in nats per user; the encoder is learnt, so what holds for DreamRec's embeddings holds
  here too. The autoencoder's own terms, likelihood and KL, are not part of it.
* These three: L_0 is minus the logarithm of a density (a Gaussian decoder), not of a probability: it and the total can be
  negative, for DiffRec's 0/1 rows above all. A smaller beta_1 alone can lower them without end.
* MaskDiff, PriorDiff: minus the logarithm of the probability of the target item among all items, given its history. Items are
  discrete and a single one is asked for, so this is exact and has no terms; it compares runs on the same data, and its
  exponential is the perplexity. On the training part PriorDiff's prior has counted what is asked for.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor
from tqdm import tqdm

from recbole_diffusion.adapter.trained import load_trained
from recbole_diffusion.diffusion.noise import Noise, keyed_noise
from recbole_diffusion.diffusion.objective import elbo_terms
from recbole_diffusion.diffusion.process import Denoiser, GaussianDiffusion
from recbole_diffusion.registry import MODELS
from recbole_diffusion.settings import SettingsError

PARTS = ("train", "valid", "test")
_LISTED = 12  # steps in the table
_BATCH_NUMBERS = 2**22  # numbers in a batch of x_t: 32 MiB
_BATCH_ROWS = 512


@torch.no_grad()
def elbo_of(
    model: torch.nn.Module, data: Any, *, samples: int = 2, rows: int = 1000, seed: int | None = None, progress: bool = False
) -> dict[str, Any]:
    """The likelihood of a trained model: its terms by Monte Carlo over x_t, or of items the exact probability.

    A copy of the model computes in float64: DiffRec's weights 1/2 (SNR_{t-1} - SNR_t) reach 1e4. The noise is a function
    of seed, row, draw and t, so that the same call gives the same numbers.

    Args:
        model: a model with ``elbo_batch`` (DiffRec, DreamRec) or ``log_probabilities`` (MaskDiff, PriorDiff). It is left as
            it is.
        data: RecBole data loader of the part whose users (DiffRec) or histories and targets (DreamRec) are taken. A user
            without training interactions has no row and is left out.
        samples: draws of x_t for each row and t; with one there is no standard error.
        rows: at most so many rows, picked at random.
        seed: of rows and noise; None takes the model's, or 0 where it draws no noise.
        progress: show a progress bar on standard error, if that is a terminal.

    Returns:
        Plain data: ``model, dataset, of, unit, dims`` (of x_0), ``steps`` (T), ``decoder_var`` (beta_1), ``rows,
        rows_of_part, samples, seed``, the terms ``prior_kl`` (L_T), ``posterior_kl`` (the sum of L_1 .. L_{T-1}),
        ``reconstruction_nll`` (L_0) and ``total``, and ``by_t``: the terms for ``t`` = 0 .. T. A term has ``mean`` over rows,
        ``se``, the standard error that the draws of x_t leave in it for these rows (0 for L_T, which is exact; None with
        one sample), and ``row_sd``, the standard deviation between rows (None for one row). All in nats per row. Of a
        model with ``log_probabilities``: ``model, dataset, of, unit, items, rows, rows_of_part, seed, perplexity`` and
        ``total``, without draws and so without ``se``.

    Raises:
        SettingsError: a model without likelihood, a part without rows, or a number below 1.
    """
    check_counts(samples=samples, rows=rows)
    _check_model(type(model), type(model).__name__)
    sequential = model.type == ModelType.SEQUENTIAL
    device = next(model.parameters()).device
    model = copy.deepcopy(model).double().eval()
    seed = getattr(model, "noise_seed", 0) if seed is None else seed
    part = data._dataset
    all_rows = part if sequential else _users_with_row(model, part)
    if not len(all_rows):
        raise SettingsError(f"dataset {part.dataset_name!r}: the part has no row to compute likelihood terms of")
    chosen = torch.randperm(len(all_rows), generator=torch.Generator().manual_seed(seed))[:rows].sort().values
    counts = {"rows": len(chosen), "rows_of_part": len(all_rows)}
    if hasattr(model, "log_probabilities"):
        return _of_items(model, all_rows, chosen) | counts | {"dataset": part.dataset_name, "seed": seed}
    _, x_0 = model.elbo_batch(all_rows[chosen[:1]].to(device))  # a DiffRec without noise ends here
    dims, steps = x_0.shape[1], model.process.n_steps
    moments = []
    with tqdm(total=len(chosen) * samples * steps, unit_scale=True, leave=False, disable=None if progress else True) as bar:
        for batch in chosen.split(min(max(_BATCH_NUMBERS // dims, 1), _BATCH_ROWS)):
            denoise, x_0 = model.elbo_batch(all_rows[batch].to(device))
            noise = keyed_noise(batch.to(device), seed)
            moments.append(_moments(_counted(denoise, bar), x_0, model.process, noise, samples))
    means, squares = zip(*moments, strict=True)
    *by_t, posterior, total = _summaries(torch.cat(means), torch.stack(squares).sum(0), samples)
    result = {"model": type(model).__name__, "dataset": part.dataset_name}
    result["of"] = "embedding of the target item, given its history" if sequential else model.likelihood_of
    result["unit"] = "nats per target item" if sequential else "nats per user"
    result |= {"dims": dims, "steps": steps, "decoder_var": float(model.process.betas[0])}
    result |= counts | {"samples": samples, "seed": seed}
    result |= {"prior_kl": by_t[-1], "posterior_kl": posterior, "reconstruction_nll": by_t[0], "total": total}
    return result | {"by_t": [{"t": t} | term for t, term in enumerate(by_t)]}


def _of_items(model: Any, rows: Any, chosen: Tensor) -> dict[str, Any]:
    """-log p of the target items of the rows ``chosen``, in nats."""
    nll = []
    for batch in chosen.split(_BATCH_ROWS):
        interaction = rows[batch].to(model.device)
        log_p = model.log_probabilities(interaction)
        nll.append(-log_p.gather(1, interaction[model.POS_ITEM_ID][:, None] - 1).squeeze(1).double())
    values = torch.cat(nll)
    mean = float(values.mean())
    total = {"mean": mean, "row_sd": float(values.std()) if len(values) > 1 else None}
    result = {"model": type(model).__name__, "of": "the target item, given its history", "unit": "nats per target item"}
    return result | {"items": model.n_items - 1, "total": total, "perplexity": math.exp(mean)}


def check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise SettingsError(f"{name} = {value!r}: must be an integer >= 1")


def _check_model(model_class: type, name: str) -> None:
    if not _has_likelihood(model_class):
        able = [other for other, model in MODELS.items() if _has_likelihood(model.load())]
        raise SettingsError(f"{name} has no likelihood; {', '.join(able)} have")


def _has_likelihood(model_class: type) -> bool:
    return hasattr(model_class, "elbo_batch") or hasattr(model_class, "log_probabilities")


def _users_with_row(model: Any, part: Any) -> Interaction:
    users = torch.unique(part.inter_feat[model.USER_ID])
    return Interaction({model.USER_ID: users[model.rows.crow.diff().to(users.device)[users] > 0]})


def _moments(denoise: Denoiser, x_0: Tensor, process: GaussianDiffusion, noise: Noise, samples: int) -> tuple[Tensor, Tensor]:
    """Draws of the terms L_0 .. L_T, the sum of the posterior KLs and the total: T + 3 columns.

    Returns:
        Mean over draws of each row ``[B, T + 3]``; squared deviations from it, summed over draws and rows ``[T + 3]``.
    """
    mean = squares = x_0.new_zeros(())
    for sample in range(samples):  # Welford 1962
        first = sample * process.n_steps
        terms = elbo_terms(denoise, x_0, process, lambda x, t, first=first: noise(x, first + t))
        kls = terms.posterior_kl
        ends = torch.stack([terms.reconstruction_nll, terms.prior_kl, kls.sum(1), terms.total], dim=1)
        value = torch.cat([ends[:, :1], kls, ends[:, 1:]], dim=1)
        deviation = value - mean
        mean = mean + deviation / (sample + 1)
        squares = squares + deviation * (value - mean)
    return mean, squares.sum(0)


def _counted(denoise: Denoiser, bar: Any) -> Denoiser:
    def counted(x_t: Tensor, t: Tensor) -> Tensor:
        bar.update(len(x_t))
        return denoise(x_t, t)

    return counted


def _summaries(means: Tensor, squares: Tensor, samples: int) -> list[dict[str, float | None]]:
    """Mean, standard error and spread between rows of each column, from what :func:`_moments` returned for all rows."""
    rows, unknown = len(means), [None] * means.shape[1]
    # The variance of a mean over independent rows is the sum of the rows' variances over rows^2.
    se = ((squares / (samples - 1) / samples).sqrt() / rows).tolist() if samples > 1 else unknown
    sd = means.std(dim=0).tolist() if rows > 1 else unknown
    return [dict(zip(("mean", "se", "row_sd"), term, strict=True)) for term in zip(means.mean(0).tolist(), se, sd, strict=True)]


# ------------------------------------------------------------------------------------------------------------- show


def elbo_table(result: dict[str, Any]) -> str:
    """What :func:`elbo_of` returned, as text: the terms, their sum, and L_t at a few t."""
    if "perplexity" in result:
        return _items_table(result)
    steps, by_t = result["steps"], result["by_t"]
    part = f", {result['part']} part" if "part" in result else ""
    terms = [
        ("L_T", "prior KL", result["prior_kl"]),
        ("L_1 + ... + L_{T-1}", "posterior KLs", result["posterior_kl"]),
        ("L_0", "reconstruction", result["reconstruction_nll"]),
        ("total", ">= -log p(x_0)", result["total"]),
    ]
    lines = [
        f"{result['model']} on {result['dataset']}{part}: likelihood terms in {result['unit']}",
        f"x_0: {result['of']} ({result['dims']} dimensions); T = {steps}; "
        f"decoder variance beta_1 = {result['decoder_var']:.4g}",
        f"{result['rows']} of {result['rows_of_part']} rows; {result['samples']} draws of each x_t (std. error: theirs)",
        "",
        f"{'term':<20}{'':<16}{'mean':>14}{'std. error':>12}{'sd of rows':>14}",
        *(f"{name:<20}{what:<16}{_numbers(term)}" for name, what, term in terms),
        "(L_0 is minus the logarithm of a density, not of a probability: it and the total can be negative.)",
    ]
    if steps > 1:
        # Closer together at small t, where the terms are large and change fast.
        listed = sorted({round((steps - 1) ** (i / (_LISTED - 1))) for i in range(_LISTED)})
        lines += ["", f"{'t':<20}{'L_t':<16}{'mean':>14}{'std. error':>12}{'sd of rows':>14}"]
        lines += [f"{t:<20}{'':<16}{_numbers(by_t[t])}" for t in listed]
    return "\n".join(lines)


def _items_table(result: dict[str, Any]) -> str:
    part = f", {result['part']} part" if "part" in result else ""
    total = result["total"]
    lines = [
        f"{result['model']} on {result['dataset']}{part}: -log p of {result['of']}, exact",
        f"{result['rows']} of {result['rows_of_part']} rows; {result['items']} items",
        "",
        f"{'mean':<14}{number(total['mean']):>14} {result['unit']}",
        f"{'sd of rows':<14}{number(total['row_sd']):>14}",
        f"{'perplexity':<14}{number(result['perplexity']):>14} (all items alike: {result['items']})",
    ]
    return "\n".join(lines)


def _numbers(term: dict[str, float | None]) -> str:
    return f"{number(term['mean']):>14}{number(term['se']):>12}{number(term['row_sd']):>14}"


def number(value: float | None) -> str:
    """A term in so many digits that its size can be read."""
    return "-" if value is None else f"{value:.3f}" if 1 <= abs(value) < 1e8 else f"{value:.4g}"


@contextlib.contextmanager
def writing(file: str | Path) -> Iterator[Path]:
    """Makes the folder of a file that is going to be written; what fails becomes one line."""
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        yield Path(file)
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror or error}") from error


def load_part(file: str, part: str, trust_pickle: bool = False) -> tuple[Any, torch.nn.Module, Any]:
    """Config, model and data loader of a part; whatever is wrong with the file becomes one line."""
    config, model, _, *parts = load_trained(file, trust_pickle, lambda c: _check_model(c.model_class, c["model"]))
    return config, model, parts[PARTS.index(part)]
