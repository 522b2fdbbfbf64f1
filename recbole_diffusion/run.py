"""One run: settings -> data -> model -> trainer -> result, and the record of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from logging import Logger, getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_environment, get_trainer, init_logger, init_seed, set_color

from recbole_diffusion.adapter.config import build_config, check_dataset, recbole_refusals
from recbole_diffusion.adapter.data_files import check_data_files, check_sizes
from recbole_diffusion.adapter.lookup import get_model
from recbole_diffusion.adapter.memory import (
    check_training_memory,
    out_of_memory_is_one_line,
    watch_first_batches,
    within_memory,
)
from recbole_diffusion.adapter.surroundings import check_surroundings
from recbole_diffusion.adapter.trainer import tracked
from recbole_diffusion.benchmark.record import Run, check_record_file, make_record, settings_hash, write_record


def run_recbole_diffusion(
    model: str | type = "DreamRec",
    dataset: str = "ml-100k",
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    *,
    record: str | Path | None = None,
    resume: bool = False,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Trains and evaluates a model, ours or RecBole's.

    Args:
        model: name or class.
        dataset: name; its files lie in ``<data_path>/<dataset>/`` (ml-100k ships inside RecBole).
        config_file_list: YAML files of settings.
        config_dict: settings; these win over the files.
        record: file for the JSON record.
        resume: keep the training state at every epoch, and go on from it if an earlier run left one.
        command: the command line, for the record.

    Returns:
        The record (see :func:`recbole_diffusion.benchmark.record.make_record`).

    Raises:
        SettingsError: bad settings; nothing has been written then.
    """
    if record is not None:
        check_record_file(record)
    config = build_config(model, dataset, config_file_list, config_dict)
    check_dataset(config)
    check_data_files(config)
    check_surroundings(config)
    with out_of_memory_is_one_line(config):
        return run(config, record=record, resume=resume, command=command or sys.argv)


def run(
    config: Config,
    *,
    record: str | Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains and evaluates what ``config`` says; see :func:`run_recbole_diffusion`."""
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    logger = getLogger()
    logger.info(config)

    train_data, valid_data, test_data = _load_data(config, logger)

    # The model's draws do not depend on how many the data took.
    init_seed(config["seed"], config["reproducibility"])
    with recbole_refusals(f"{config['model']}: "), within_memory(config, "building the model"):
        model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    logger.info(model)
    check_training_memory(config, model)

    trainer = tracked(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    stem = f"{config['model']}-{config['dataset']}-{settings_hash(config)}"
    trainer.saved_model_file = str(Path(config["checkpoint_dir"]) / f"{stem}.pth")
    trainer.state_file = Path(config["checkpoint_dir"]) / f"{stem}.resume.pth" if resume else None

    watch_first_batches(config, model, valid_data)
    _, valid = trainer.fit(train_data, valid_data, show_progress=config["show_progress"])
    started = perf_counter()
    test = trainer.evaluate(test_data, show_progress=config["show_progress"])
    finished = Run(
        config=config,
        model=model,
        parts={"train": train_data._dataset, "valid": valid_data._dataset, "test": test_data._dataset},
        curve=trainer.curve,
        checkpoint=trainer.saved_model_file,
        valid=dict(valid or {}),
        test=dict(test or {}),
        test_eval_s=perf_counter() - started,
        command=list(command),
    )
    logger.info("The running environment of this training is as follows:\n" + get_environment(config).draw())
    logger.info(set_color("best valid ", "yellow") + f": {valid}")
    logger.info(set_color("test result", "yellow") + f": {test}")

    result = make_record(finished)
    if record is not None:
        write_record(result, Path(record))
    return result


def _load_data(config: Config, logger: Logger) -> tuple[Any, Any, Any]:
    """RecBole's three data loaders; what it says of data that do not fit becomes one line."""
    about = f"dataset {config['dataset']!r} with {config['model']}: "
    with recbole_refusals(about), within_memory(config, "reading the data"):
        dataset = create_dataset(config)
        logger.info(dataset)
        check_sizes(config, dataset)
        return data_preparation(config, dataset)
