"""The trainer of sequential models in closed form. RecBole finds it as ``<Model>Trainer``."""

from recbole.trainer import TraditionalTrainer


class SequentialKNNTrainer(TraditionalTrainer):
    """RecBole's trainer of models without training: one epoch, whatever ``epochs`` says.

    RecBole takes it for models of type ``TRADITIONAL``, which get no histories.
    """
