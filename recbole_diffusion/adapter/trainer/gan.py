"""The trainers of the GAN baselines: who moves when. RecBole finds them as ``<Model>Trainer``."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from recbole_diffusion.adapter.trainer.adversarial import AdversarialTrainer, Move


class CFGANTrainer(AdversarialTrainer):
    """Algorithm 1 of the CFGAN paper: new masks, then passes of the generator, then passes of the discriminator."""

    def moves(self, train_data: Any, epoch: int) -> tuple[int, Iterator[Move]]:
        s, rows = self.model.settings, self.model.rows.occupied()
        sides = (
            ("generator", self.model.generator_loss, s.g_steps, self.config["train_batch_size"]),
            ("discriminator", self.model.discriminator_loss, s.d_steps, s.d_batch_size),
        )
        number = sum(steps * batches(rows, size) for _, _, steps, size in sides)

        def play() -> Iterator[Move]:
            self.model.draw_masks()
            for name, loss, steps, size in sides:
                for _ in range(steps):
                    for batch in shuffled(rows, size):
                        yield Move(name, getattr(self, f"{name}_optimizer"), functools.partial(loss, batch))

        return number, play()


class AAETrainer(AdversarialTrainer):
    """Section 2 of the AAE paper: on every batch the autoencoder moves, then the discriminator, then the encoder."""

    def players(self, model: Any) -> dict[str, tuple[list[torch.nn.Parameter], float, float]]:
        s, encoder = model.settings, list(model.encoder.parameters())
        return {
            "autoencoder": ([*encoder, *model.decoder.parameters()], self.learning_rate, self.weight_decay),
            "discriminator": (list(model.discriminator.parameters()), s.d_learning_rate, s.d_weight_decay),
            "generator": (encoder, s.g_learning_rate, 0.0),
        }

    def moves(self, train_data: Any, epoch: int) -> tuple[int, Iterator[Move]]:
        model = self.model

        def play() -> Iterator[Move]:
            for interaction in train_data:
                users = interaction[model.USER_ID].to(self.device)
                yield Move("reconstruction", self.autoencoder_optimizer, functools.partial(model.reconstruction_loss, users))
                yield Move("discriminator", self.discriminator_optimizer, functools.partial(model.discriminator_loss, users))
                yield Move("generator", self.generator_optimizer, functools.partial(model.generator_loss, users))

        return 3 * len(train_data), play()


class IRGANTrainer(AdversarialTrainer):
    """Algorithm 1 of the IRGAN paper, the pretraining of the generator being its first epochs."""

    def players(self, model: Any) -> dict[str, tuple[list[torch.nn.Parameter], float, float]]:
        parameters = list(model.generator.parameters())
        return super().players(model) | {
            "pretraining": (parameters, model.settings.pretrain_learning_rate, self.weight_decay)
        }

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> tuple[float, ...]:
        if epoch_idx <= self.model.settings.pretrain_epochs:
            self.cur_step = 0  # early stopping counts from the first epoch of the game on
        return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)

    def moves(self, train_data: Any, epoch: int) -> tuple[int, Iterator[Move]]:
        s, model = self.model.settings, self.model
        users, items = model.rows.owners(), model.rows.col
        everybody, pairs = model.rows.occupied(), torch.arange(len(items), device=items.device)

        def pretrain() -> Iterator[Move]:
            for b in shuffled(pairs, s.pretrain_batch_size):
                loss = functools.partial(model.pretraining_loss, users[b], items[b])
                yield Move("pretraining", self.pretraining_optimizer, loss)

        def play() -> Iterator[Move]:
            for _ in range(s.d_steps):
                fakes = model.generate()
                for b in shuffled(pairs, s.d_batch_size):
                    loss = functools.partial(model.discriminator_loss, users[b], items[b], fakes[b])
                    yield Move("discriminator", self.discriminator_optimizer, loss)
            for _ in range(s.g_steps):
                for b in shuffled(everybody, self.config["train_batch_size"]):
                    yield Move("generator", self.generator_optimizer, functools.partial(model.generator_loss, b))

        if epoch < s.pretrain_epochs:
            return batches(pairs, s.pretrain_batch_size), pretrain()
        number = s.d_steps * batches(pairs, s.d_batch_size)
        return number + s.g_steps * batches(everybody, self.config["train_batch_size"]), play()


def batches(rows: torch.Tensor, size: int) -> int:
    """How many batches of ``size`` rows make."""
    return -(-len(rows) // size)


def shuffled(rows: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """The rows in random order, in batches of ``size`` (the last may be smaller)."""
    return rows[torch.randperm(len(rows), device=rows.device)].split(size)
