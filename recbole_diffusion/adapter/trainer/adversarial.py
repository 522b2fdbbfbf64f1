"""What trainers of adversarial models share: several optimisers that take turns within RecBole's own ``fit``."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import set_color
from torch import nn
from torch.nn.utils.clip_grad import clip_grad_norm_
from tqdm import tqdm

from recbole_diffusion.adapter.trainer.divergence import check_finite
from recbole_diffusion.settings import SettingsError


@dataclasses.dataclass(frozen=True)
class Move:
    """One player's step.

    Attributes:
        name: whose loss it is, in the log and in the training curve.
        optimizer: what moves.
        loss: computes the loss, a scalar. A move is made before the next one is asked for.
    """

    name: str
    optimizer: torch.optim.Optimizer
    loss: Callable[[], torch.Tensor]


class AdversarialTrainer(Trainer, ABC):
    """RecBole's ``Trainer`` with an epoch of moves, each of one player; validation and early stopping are RecBole's.

    A subclass says in :meth:`players` who plays and in :meth:`moves` what an epoch is. Every optimiser is an attribute
    ``<player>_optimizer``, which is where checkpoints look for them. RecBole's ``optimizer`` is the first of them.

    Attributes:
        epoch_losses: of the epoch that has just been trained, the mean loss of each player's moves, in the order of their
            first moves. RecBole logs and plots them in this order as ``train_loss1``, ``train_loss2``, ...
    """

    def __init__(self, config: Any, model: nn.Module) -> None:
        self.check_processes(config)
        if config["enable_scaler"]:
            raise SettingsError(f"enable_scaler = True: must be False for {config['model']}, which has several optimisers")
        super().__init__(config, model)
        self.epoch_losses: dict[str, float] = {}
        optimizers = []
        for name, (parameters, learning_rate, weight_decay) in self.players(model).items():
            optimizer = self._build_optimizer(params=parameters, learning_rate=learning_rate, weight_decay=weight_decay)
            setattr(self, f"{name}_optimizer", optimizer)
            optimizers.append(optimizer)
        self.optimizer = optimizers[0]

    @staticmethod
    def check_processes(config: Any) -> None:
        """Refuses several processes, in which RecBole averages the gradients of one optimiser.

        Raises:
            SettingsError: ``nproc`` above 1.
        """
        if config["nproc"] > 1:
            raise SettingsError(f"nproc = {config['nproc']!r}: must be 1 for {config['model']}, which has several optimisers")

    def players(self, model: Any) -> dict[str, tuple[list[nn.Parameter], float, float]]:
        """Who plays: for each name the parameters, the learning rate and the L2 weight.

        The two are given as RecBole's ``learning_rate`` and ``weight_decay`` for the generator, and as the settings
        ``d_learning_rate`` and ``d_weight_decay`` for the discriminator.
        """
        s = model.settings
        return {
            "generator": (list(model.generator.parameters()), self.learning_rate, self.weight_decay),
            "discriminator": (list(model.discriminator.parameters()), s.d_learning_rate, s.d_weight_decay),
        }

    @abstractmethod
    def moves(self, train_data: Any, epoch: int) -> tuple[int, Iterable[Move]]:
        """How many moves an epoch has, and the moves."""

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> tuple[float, ...]:
        """One epoch.

        Returns:
            The values of :attr:`epoch_losses`.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; its step has not been made.
        """
        self.model.train()
        number, moves = self.moves(train_data, epoch_idx)
        if show_progress:
            moves = tqdm(moves, total=number, ncols=100, desc=set_color(f"Train {epoch_idx:>5}", "pink"))
        totals: dict[str, list[float]] = {}
        for batch, move in enumerate(moves):
            totals.setdefault(move.name, []).append(self._make(move, epoch_idx, batch))
        self.epoch_losses = {name: math.fsum(values) / len(values) for name, values in totals.items()}
        return tuple(self.epoch_losses.values())

    def _make(self, move: Move, epoch: int, batch: int) -> float:
        """One optimiser step; only the player's own parameters get a gradient."""
        own = [p for group in move.optimizer.param_groups for p in group["params"]]
        with _frozen(self.model, own):
            move.optimizer.zero_grad()
            with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
                loss = move.loss()
            value = loss.item()
            check_finite(self, move.name, value, epoch, batch)
            loss.backward()
        if self.clip_grad_norm:
            clip_grad_norm_(own, **self.clip_grad_norm)
        move.optimizer.step()
        return value


class _frozen:
    """Turns gradients off for every parameter of a model but some: the opponent's would be computed in vain."""

    def __init__(self, model: nn.Module, but: list[nn.Parameter]) -> None:
        kept = {id(p) for p in but}
        self.others = [p for p in model.parameters() if id(p) not in kept and p.requires_grad]

    def __enter__(self) -> None:
        for p in self.others:
            p.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for p in self.others:
            p.requires_grad_(True)
