"""What a general model sees of a user at test time: the training items, or the validation items as well.

A sequential model's test history ends with the validation item; a general model is given the training part only. With the
setting ``test_input = train+valid`` both see the same. Weights stay what training made them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.data import interaction
from recbole.model.abstract_recommender import AutoEncoderMixin
from recbole.model.general_recommender import CDAE, EASE, ItemKNN, SLIMElastic

from recbole_diffusion.settings import SettingsError

CHOICES = ("train", "train+valid")


def check_test_input(config: Any) -> None:
    """Refuses a wrong value, and ``train+valid`` for a model that reads no interactions of a user when it scores.

    Raises:
        SettingsError: names the model and what is allowed.
    """
    value = config["test_input"]
    if value not in CHOICES:
        raise SettingsError(f"test_input = {value!r}: must be one of {', '.join(CHOICES)}")
    if value == "train+valid" and not reads_items(config):
        raise SettingsError(
            f"test_input = {value!r}: {config.model} reads no list of a user's items when it scores; allowed: train"
        )


def reads_items(config: Any) -> bool:
    """Whether a general model reads a list of a user's items when it scores, so that it can be given another one."""
    model = config.model_class
    readers = (AutoEncoderMixin, EASE, SLIMElastic, ItemKNN)
    return (hasattr(model, "read_histories") or issubclass(model, readers)) and not (
        issubclass(model, ItemKNN) and config["knn_method"] == "user"
    )


def reads_items_of_anyone(config: Any) -> bool:
    """Whether such a list is all that it reads: CDAE has a vector for each user, CFGAN's item mode an output for each."""
    of_users = issubclass(config.model_class, CDAE) or (config["model"] == "CFGAN" and config["mode"] == "item")
    return reads_items(config) and not of_users


def show_validation_items(model: Any, train: Any, valid: Any) -> None:
    """Gives a trained model the users' training and validation items as input.

    Args:
        model: a model that :func:`check_test_input` lets pass.
        train: RecBole ``Dataset`` of the training part.
        valid: that of the validation part.
    """
    show_items(model, training_and_validation(train, valid))


def show_items(model: Any, rows: Any) -> None:
    """Gives a trained model other lists of items as input.

    Args:
        model: one that :func:`reads_items`.
        rows: RecBole ``Dataset`` with the users' interactions.
    """
    if hasattr(model, "read_histories"):
        model.read_histories(rows)
    elif isinstance(model, AutoEncoderMixin):
        model.build_histroy_items(rows)
    else:
        model.interaction_matrix = rows.inter_matrix(form="csr").astype(np.float32)
        if isinstance(model, ItemKNN):
            model.pred_mat = model.interaction_matrix.dot(model.w).tolil()


def training_and_validation(train: Any, valid: Any) -> Any:
    """RecBole ``Dataset`` of the two parts, training rows first."""
    rows = valid.inter_feat[:]
    for field in set(rows.columns) - set(train.inter_feat.columns):
        rows.drop(field)  # histories, which training rows may get only when they are read (sequences.py)
    return train.copy(interaction.cat_interactions([train.inter_feat, rows]))
