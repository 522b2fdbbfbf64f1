"""What a general model sees of a user at test time: the training items, or the validation items as well.

A sequential model's test history ends with the validation item; a general model is given the training part only. With the
setting ``test_input = train+valid`` both see the same, whoever evaluates the test loader: our command, a script's
``Trainer.evaluate``, or either after ``load_data_and_model``. Weights stay what training made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import recbole.data.utils
import recbole.utils.case_study
from recbole.data import interaction
from recbole.model.abstract_recommender import AutoEncoderMixin
from recbole.model.general_recommender import CDAE, EASE, ItemKNN, SLIMElastic

from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.settings import SettingsError

TEST_INPUTS = ("train", "train+valid")


def check_test_input(config: Any) -> None:
    """Refuses a wrong value, and ``train+valid`` for a model that reads no interactions of a user when it scores.

    Raises:
        SettingsError: names the model and what is allowed.
    """
    value = config["test_input"]
    if value not in TEST_INPUTS:
        raise SettingsError(f"test_input = {value!r}: must be one of {', '.join(TEST_INPUTS)}")
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


def install() -> None:
    """Lets the evaluation of a test loader of RecBole's, and RecBole's ``full_sort_scores``, show what ``test_input`` says."""
    replace(recbole.data.utils, "data_preparation", _remember_parts, everywhere=True)
    replace(recbole.utils.case_study, "full_sort_scores", _show_to_case_study, everywhere=True)


def _remember_parts(original: Callable[..., Any]) -> Callable[..., Any]:
    def data_preparation(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
        train, valid, test = original(config, dataset)
        test.input_parts = train._dataset, valid._dataset
        return train, valid, test

    return data_preparation


def _show_to_case_study(original: Callable[..., Any]) -> Callable[..., Any]:
    def full_sort_scores(uid_series: Any, model: Any, test_data: Any, device: Any = None) -> Any:
        with input_of(model, test_data):
            return original(uid_series, model, test_data, device)

    return full_sort_scores


@contextmanager
def input_of(model: Any, loader: Any) -> Iterator[None]:
    """Gives a model the input that belongs to a loader, and that of training afterwards.

    Args:
        model: a trained model.
        loader: of evaluation; the test loader that ``data_preparation`` made has the validation items beside it.

    Raises:
        SettingsError: see :func:`check_test_input`.
    """
    parts = getattr(loader, "input_parts", None)
    if parts is None or loader.config["test_input"] != "train+valid":
        yield
        return
    check_test_input(loader.config)
    show_items(model, training_and_validation(*parts))
    try:
        yield
    finally:
        show_items(model, parts[0])


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
