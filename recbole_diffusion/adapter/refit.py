"""The setting ``refit``: the tested model is trained anew on the training and validation parts together.

Validation chooses the number of epochs on the training part first. The model is then built and trained for that many epochs as
if the training part had always been the two together, with the same seed, without validation, and tested once. A closed
form is just fitted. General models then see the validation items as input too. :mod:`recbole_diffusion.run` does it; RecBole's
own entry points do not know it.
"""

from __future__ import annotations

from typing import Any

from recbole.data.utils import create_samplers
from recbole.trainer import TraditionalTrainer
from recbole.utils import ModelType

from recbole_diffusion.adapter.eval_input import training_and_validation
from recbole_diffusion.adapter.lookup import get_dataloader, trainer_of
from recbole_diffusion.settings import SettingsError

BOTH_PARTS = "train+valid"
"""What the checkpoint of a refitted model says it is trained on."""

_TYPES = (ModelType.GENERAL, ModelType.SEQUENTIAL, ModelType.CONTEXT, ModelType.TRADITIONAL)


def check_refit(config: Any) -> None:
    """Refuses a wrong value, and a refit where nothing would be selected.

    Raises:
        SettingsError: names the setting and what is allowed.
    """
    value = config["refit"]
    if not isinstance(value, bool):
        raise SettingsError(f"refit = {value!r}: must be True or False")
    if not value:
        return
    if config["MODEL_TYPE"] not in _TYPES:
        kinds = ", ".join(kind.name.lower() for kind in _TYPES)
        raise SettingsError(f"refit = True: {config.model} is a {config['MODEL_TYPE'].name.lower()} model; allowed: {kinds}")
    if not is_closed_form(config) and not 1 <= config["eval_step"] <= config["epochs"]:
        raise SettingsError(
            f"refit = True: eval_step = {config['eval_step']} with epochs = {config['epochs']} evaluates no epoch, so no "
            "number of epochs is selected; set eval_step between 1 and epochs"
        )


def is_closed_form(config: Any) -> bool:
    """Whether a model has nothing to train: RecBole's trainer of such models makes one epoch, whatever is set."""
    return issubclass(trainer_of(config), TraditionalTrainer)


def selected_epochs(best_epoch: int | None, config: Any) -> int:
    """For how many epochs to train anew.

    Args:
        best_epoch: that validation chose, from 0; None if no epoch was evaluated.
        config: RecBole ``Config`` of the run.

    Raises:
        SettingsError: no epoch was evaluated, and there is no closed form.
    """
    if is_closed_form(config):
        return 1
    if best_epoch is None:
        raise SettingsError("refit = True: no epoch was evaluated, so no number of epochs is selected; allowed: False")
    return best_epoch + 1


def union_loader(config: Any, dataset: Any, train: Any, valid: Any, test: Any) -> Any:
    """RecBole's training loader of the training and validation parts together.

    Args:
        config: RecBole ``Config``.
        dataset: RecBole ``Dataset`` that was split.
        train, valid, test: data sets of its parts.

    Raises:
        SettingsError: there is no validation part.
    """
    if len(valid) == 0:
        raise SettingsError("refit = True: the split has no validation part, so nothing is selected; allowed: False")
    both = training_and_validation(train, valid)
    sampler, _, _ = create_samplers(config, dataset, [both, valid, test])
    return get_dataloader(config, "train")(config, both, sampler, shuffle=config["shuffle"])
