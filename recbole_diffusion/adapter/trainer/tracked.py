"""Adds a training curve, timings, resumption and an end by name, where it diverges, to any of RecBole's trainers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch

from recbole_diffusion.adapter.checkpoint import load_checkpoint, save_checkpoint
from recbole_diffusion.adapter.processes import mean_over_processes
from recbole_diffusion.adapter.trainer.divergence import check_finite


class Tracked:
    """Mixin before a RecBole ``Trainer``.

    Attributes:
        curve: one entry per epoch: ``epoch``, ``train_loss``, ``train_s``; where the epoch was evaluated, ``valid_score`` and
            ``eval_s``; of adversarial models ``losses``, the mean loss of each player, whose sum is ``train_loss``.
        state_file: where the full training state is kept, at the start of every epoch and once more at the end of the
            training; None keeps none. A run that finds the file goes on from it and ends as the uninterrupted run would
            have. Whoever has used the trained model removes the file.
        scoring_s: seconds that full evaluation has spent on scores; whoever measures it sets it to 0 first.
        trained_on: the parts that it trains on, for the checkpoint: ``train`` or ``train+valid``.
        watcher: called with the trainer after every evaluation; an error that it raises ends the training.
    """

    state_file: Path | None = None
    trained_on: str = "train"
    scoring_s: float = 0.0
    watcher: ClassVar[Callable[[Any], None] | None] = None
    _loaders: tuple[Any, ...] = ()

    def __init__(self, config: Any, model: torch.nn.Module) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        self.curve: list[dict[str, Any]] = []
        self._checked = (0, 0)  # epoch, batches checked in it

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """RecBole's choice, with torch's fused step for Adam and AdamW: one pass over the parameters in place of seven."""
        optimizer = super()._build_optimizer(**kwargs)  # type: ignore[misc]
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            return optimizer
        keys = ("lr", "betas", "eps", "weight_decay", "amsgrad")
        groups = [{key: group[key] for key in ("params", *keys)} for group in optimizer.param_groups]
        try:
            return type(optimizer)(groups, **{key: optimizer.defaults[key] for key in keys}, fused=True)
        except RuntimeError:  # this torch has none for this device
            return optimizer

    def fit(self, train_data: Any, valid_data: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._loaders = (train_data, valid_data)
        if self.state_file is not None and self.state_file.exists() and self._restore():
            self.eval_collector.data_collect(train_data)  # type: ignore[attr-defined]  # some metrics need the counts
            return self.best_valid_score, self.best_valid_result
        result = super().fit(train_data, valid_data, *args, **kwargs)  # type: ignore[misc]
        if self.state_file is not None:
            self._store(self.curve[-1]["epoch"] if self.curve else -1, finished=True)
        return result

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        # The validation, early stopping and checkpoint of the epoch before are all behind us here, so this is the one
        # place where the state of a whole number of epochs can be caught.
        if self.state_file is not None and epoch_idx > self.start_epoch:
            self._store(epoch_idx - 1)
        self._checked = (epoch_idx, 0)
        started = perf_counter()
        loss = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]
        total = sum(loss) if isinstance(loss, tuple) else loss
        batches = max(len(train_data), 1) if hasattr(train_data, "__len__") else 1
        mean = None if total is None else mean_over_processes(float(total) / batches)
        entry = {"epoch": epoch_idx, "train_loss": mean, "train_s": perf_counter() - started}
        if losses := getattr(self, "epoch_losses", None):  # a trainer of several players: see AdversarialTrainer
            entry |= {"train_loss": sum(losses.values()), "losses": losses}
        self.curve.append(entry)
        return loss

    def _check_nan(self, loss: torch.Tensor) -> None:
        """What RecBole asks of every batch, with model, epoch and batch in the error; an infinite loss is one too."""
        epoch, batch = self._checked
        self._checked = (epoch, batch + 1)
        value = loss.item()
        if not (self.enable_scaler and math.isinf(value)):  # type: ignore[attr-defined]  # the scaler skips that step
            check_finite(self, "training", value, epoch, batch)

    def _valid_epoch(self, *args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        score, result = super()._valid_epoch(*args, **kwargs)  # type: ignore[misc]
        self.curve[-1].update(valid_score=float(score), eval_s=perf_counter() - started)
        if Tracked.watcher is not None:
            Tracked.watcher(self)
        return score, result

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        started = perf_counter()
        result = super()._full_sort_batch_eval(batched_data)  # type: ignore[misc]
        if self.device.type == "cuda":  # type: ignore[attr-defined]
            torch.cuda.synchronize(self.device)  # type: ignore[attr-defined]  # or the next line would time the launch
        self.scoring_s += perf_counter() - started
        return result

    def _store(self, epoch: int, finished: bool = False) -> None:
        state = {
            "finished": finished,
            "best_valid_result": self.best_valid_result,
            "curve": self.curve,
            "saved_model_file": str(self.saved_model_file),
            "threads": torch.get_num_threads(),
            "loader_rng": [generator.get_state() for generator in _generators(self._loaders)],
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy_rng": np.random.get_state(),
            "python_rng": random.getstate(),
        }
        save_checkpoint(self, epoch, self.state_file, extra={"resume": state})  # type: ignore[arg-type]

    def _restore(self) -> bool:
        """Takes over the state of an earlier run; returns whether its training had ended."""
        self.resume_checkpoint(self.state_file)  # type: ignore[attr-defined]
        state = load_checkpoint(self.state_file, map_location="cpu")["resume"]  # type: ignore[arg-type]
        self.best_valid_result = state["best_valid_result"]
        self.curve = state["curve"]
        # resume_checkpoint goes on saving into the file that it read; the best model has its own.
        self.saved_model_file = state["saved_model_file"]
        for generator, kept in zip(_generators(self._loaders), state["loader_rng"], strict=True):
            generator.set_state(kept)
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        np.random.set_state(state["numpy_rng"])
        random.setstate(state["python_rng"])
        threads = torch.get_num_threads()
        if state["threads"] != threads:
            self.logger.warning(  # type: ignore[attr-defined]
                f"{self.state_file} was kept by a run on {state['threads']} threads, and this one has {threads}: sums are "
                f"taken in another order, so the last digits may differ; OMP_NUM_THREADS={state['threads']} keeps them"
            )
        return state["finished"]


def _generators(loaders: tuple[Any, ...]) -> list[torch.Generator]:
    """The generators of data loaders and of those inside them: a knowledge-aware loader has two inside and none itself."""
    inside = [value for loader in loaders if loader is not None for value in vars(loader).values()]
    everyone = [*loaders, *(value for value in inside if isinstance(value, torch.utils.data.DataLoader))]
    return [loader.generator for loader in everyone if getattr(loader, "generator", None) is not None]


def tracked(trainer_class: type) -> type:
    """``trainer_class`` with :class:`Tracked` in front of it."""
    return type(f"Tracked{trainer_class.__name__}", (Tracked, trainer_class), {})
