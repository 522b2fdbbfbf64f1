"""What is timed of DreamRec."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.diffusion.exact import AffineChain, affine_chain
from recbole_diffusion.diffusion.noise import keyed_noise, stream_noise
from recbole_diffusion.model.sequential_recommender.causal import TARGETS
from recbole_diffusion.speed import floor
from recbole_diffusion.speed.data import Loaded, epoch, load
from recbole_diffusion.speed.measure import Variant, compare, progress
from recbole_diffusion.speed.peers import algorithm_2
from recbole_diffusion.speed.sizes import Task

BATCH_OF_THE_PAPER_S_CODE = 100
DRAWS = 4096
# Of 4096 draws the largest of 64 standard normal errors is below 5 in all but 1 of 27,000 cases; of 2080, in all but 840.
ALLOWED_Z = 5.0


def measure(task: Task) -> dict[str, Any]:
    """Times DreamRec's one-shot sampler against the loop that it replaces; see :func:`diffrec.measure`."""
    ours = load("DreamRec", task.settings, task.device)
    rows = _training(task, ours) if "training" in task.parts else []
    if "scoring" not in task.parts:
        return {"rows": rows, "agreement": [], "data": ours.counts()}
    histories = ours.test.dataset.inter_feat
    sizes = sorted({min(size, len(histories)) for size in (BATCH_OF_THE_PAPER_S_CODE, ours.config["eval_batch_size"])})
    model = ours.model.eval()
    with torch.no_grad():
        for size in sizes:
            batch = histories[:size].to(model.device)
            rows += _generation(task, model, batch)
            rows += _scoring(task, model, batch)
        agreement = _agreement(model, histories[:1].to(model.device), DRAWS)
    return {"rows": rows, "agreement": agreement, "data": ours.counts()}


def plain_loop(model: torch.nn.Module) -> torch.nn.Module:
    """The same model, sharing its weights, that takes all T steps; guidance in one batched call."""
    plain = copy.copy(model)
    plain.settings = dataclasses.replace(model.settings, sampler="ancestral")
    return plain


def peer(model: Any, cond: torch.Tensor) -> torch.Tensor:
    """Oracle items by the paper's Algorithm 2, from torch's own generator."""
    s = model.settings
    return algorithm_2(model.network, cond, model.no_history, model.process.betas, s.guidance_scale, stream_noise())


def _training(task: Task, ours: Loaded) -> list[dict[str, Any]]:
    batches = [int(batch[TARGETS].count_nonzero()) if TARGETS in batch else len(batch) for batch in ours.train]  # targets
    s = ours.model.settings
    products = [product for size in batches for product in floor.dreamrec_step(size, s.hidden_size, s.inner_size)]
    variants = [
        Variant("DreamRec", epoch(ours, resumable=True), floor.work(products)),
        floor.bare("its matrix products alone", products, task.device),
    ]
    return compare("training epoch", max(batches), variants, task.repeats, task.device)


def _generation(task: Task, model: Any, batch: Interaction) -> list[dict[str, Any]]:
    """From encoded histories to oracle items: what the sampler does."""
    s, n = model.settings, len(batch)
    cond = model.condition(batch)
    keys = torch.arange(n, device=cond.device)
    one_shot = floor.one_shot(n, s.hidden_size)
    steps = floor.work(floor.loop(n, s.hidden_size, s.steps))

    # Drawing the noise is part of the work of both.
    def exact() -> torch.Tensor:
        return model._closed_form(cond, keyed_noise(keys, model.noise_seed))

    def loop() -> torch.Tensor:
        return model._step_by_step(cond, keyed_noise(keys, model.noise_seed))

    def forget() -> None:
        model._composed = None

    variants = [
        Variant("DreamRec, one shot (default)", exact, floor.work(one_shot)),
        Variant("DreamRec, first batch: composes the chain too", exact, before=forget),
        Variant("DreamRec, plain loop (sampler: ancestral)", loop, steps),
        Variant("Algorithm 2, two calls a step", lambda: peer(model, cond), steps),
        floor.bare("default's matrix products alone", one_shot, task.device),
    ]
    return compare("generation", n, variants, task.repeats, task.device)


def _scoring(task: Task, model: Any, batch: Interaction) -> list[dict[str, Any]]:
    """From histories to the scores of all items: encoder, generation, and the product with every item."""
    s, n = model.settings, len(batch)
    plain = plain_loop(model)
    around = [*floor.encoder(n, s.hidden_size, s.inner_size), (n, s.hidden_size, model.n_items)]
    products = around + floor.one_shot(n, s.hidden_size)
    steps = floor.work(around + floor.loop(n, s.hidden_size, s.steps))
    variants = [
        Variant("DreamRec (default)", lambda: model.full_sort_predict(batch), floor.work(products)),
        Variant("DreamRec, plain loop (sampler: ancestral)", lambda: plain.full_sort_predict(batch), steps),
        Variant(
            "Algorithm 2, two calls a step",
            lambda: peer(model, model.condition(batch)) @ model.item_embedding.weight.T,
            steps,
        ),
        floor.bare("default's matrix products alone", products, task.device),
    ]
    return compare("scoring", n, variants, task.repeats, task.device)


# ------------------------------------------------------------------------------------------------------- agreement


def _agreement(model: Any, history: Interaction, draws: int) -> list[dict[str, Any]]:
    """Draws of one history's oracle item by each sampler against the mean and covariance in closed form."""
    cond = model.condition(history).expand(draws, -1)
    keys = torch.arange(draws, device=cond.device)
    # From the library, not from the model, whose own use of it is what is checked here.
    parts, w = model.network.affine_parts(), model.settings.guidance_scale
    shift = model.network.time_shift(torch.arange(model.settings.steps, device=cond.device))
    chain = affine_chain(parts.A, shift, model.process)
    u = ((1 + w) * cond[:1] - w * model.no_history) @ parts.B.T
    noise = keyed_noise(keys, model.noise_seed)
    torch.manual_seed(model.noise_seed)
    samplers = {
        "one shot": lambda: model._closed_form(cond, noise),
        "plain loop": lambda: model._step_by_step(cond, noise),
        "Algorithm 2": lambda: peer(model, cond),
    }
    rows = []
    for name, draw in samplers.items():
        progress(f"moments of {draws} draws: {name}")
        of_mean, of_covariance = moment_errors(draw(), chain, u)
        rows += [
            {"what": f"{name}: largest error of the mean, in standard errors", "value": of_mean, "allowed": ALLOWED_Z},
            {"what": f"{name}: of the covariance, likewise", "value": of_covariance, "allowed": ALLOWED_Z},
        ]
    return rows


def moment_errors(x: torch.Tensor, chain: AffineChain, u: torch.Tensor) -> tuple[float, float]:
    """How far draws are from N(M u + m, S): the largest errors in units of their standard deviation.

    With y = S^(-1/2) (x - mean), under the hypothesis, sqrt(n) times the mean of each y_i is standard normal, and so, for
    many draws, are sqrt(n) times the mean of each y_i y_j and sqrt(n / 2) times that of each y_i^2 - 1.

    Args:
        x: draws for one history [n, d].
        chain: the closed form.
        u: its input for that history [1, d].

    Returns:
        The largest of d errors of the mean, and of d (d + 1) / 2 of the covariance.
    """
    n = len(x)
    y = torch.linalg.solve(chain.S_factor, (x.double() - chain.mean(u.double())).T).T
    of_mean = y.mean(0).abs().max() * n**0.5
    error = (y.T @ y / n - torch.eye(y.shape[1], dtype=y.dtype, device=y.device)) * n**0.5
    error.diagonal().div_(2**0.5)
    return float(of_mean), float(error.abs().max())
