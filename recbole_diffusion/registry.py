"""Which models exist and where; makes stock RecBole entry points find ours.

To add a model: write ``model/<family>/<name>.py``, its defaults in ``properties/model/<Name>.yaml``, and one line in
:data:`MODELS`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import recbole.data.dataset
import recbole.data.utils
import recbole.model.general_recommender
import recbole.model.sequential_recommender
import recbole.quick_start.quick_start
import recbole.trainer
import recbole.utils.utils
from recbole.utils import ModelType

from recbole_diffusion.settings import SettingsError


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the plugin.

    Attributes:
        name: class name, also the name users give.
        task: RecBole's folder for it, ``general_recommender`` or ``sequential_recommender``.
        group: heading in the list of models.
        module: file name without ``.py``; the lower-case name unless several classes share a file.
        protocol: evaluation protocol where the user names none; None leaves RecBole's defaults.
        trainer: module in ``recbole_diffusion.trainer`` that has the class ``<name>Trainer``, for a model that RecBole's
            own trainer cannot train; empty: RecBole's.
        packs: a sequential model that can train at all positions of a sequence (``train_positions``).
        reads_history: trains on whole user rows of the interaction matrix, not on single interactions.
        stock_yaml: the RecBole model whose YAML file this one reads (for RecBole's own classes under another name).
    """

    name: str
    task: str
    group: str
    module: str = ""
    protocol: str | None = None
    trainer: str = ""
    packs: bool = False
    reads_history: bool = False
    stock_yaml: str | None = None

    def load(self) -> type:
        """Imports the class."""
        path = f"recbole_diffusion.model.{self.task}.{self.module or self.name.lower()}"
        return getattr(importlib.import_module(path), self.name)

    def load_trainer(self) -> type | None:
        """Imports the trainer class; None for a model that has none of its own."""
        if not self.trainer:
            return None
        return getattr(importlib.import_module(f"recbole_diffusion.trainer.{self.trainer}"), f"{self.name}Trainer")


def _general(name: str, group: str, **more: Any) -> Model:
    return Model(name, "general_recommender", group, protocol="ratio-80-10-10", reads_history=True, **more)


def _sequential(name: str, group: str, **more: Any) -> Model:
    return Model(name, "sequential_recommender", group, protocol="leave-one-out", **more)


def _stock(name: str) -> Model:
    return Model(f"Stock{name}", "general_recommender", "diffusion", module="stock", stock_yaml=name)


MODELS = {
    model.name: model
    for model in (
        _general("DiffRec", "diffusion"),
        _general("TDiffRec", "diffusion", module="diffrec"),
        _general("LDiffRec", "diffusion", trainer="ldiffrec"),
        _general("LTDiffRec", "diffusion", module="ldiffrec", trainer="ldiffrec"),
        _sequential("DreamRec", "diffusion", packs=True),
        _sequential("PackedSASRec", "sequential", packs=True),
        _sequential("PackedGRU4Rec", "sequential", packs=True),
        _general("CFGAN", "GAN", trainer="gan"),
        _general("AAE", "GAN", trainer="gan"),
        _general("IRGAN", "GAN", trainer="gan"),
        _general("TEASE", "simple"),
        _stock("DiffRec"),
        _stock("LDiffRec"),
    )
}

GROUPS = ("diffusion", "VAE", "GAN", "sequential", "simple")
# RecBole's own models that our tables compare with: group, and one line. All others are listed by RecBole's kinds.
_BASELINES = {
    "MultiVAE": ("VAE", "Mult-VAE (WWW 2018): variational autoencoder of a user's row, multinomial likelihood."),
    "MultiDAE": ("VAE", "Mult-DAE (WWW 2018): Mult-VAE without the variational part."),
    "MacridVAE": ("VAE", "MacridVAE (NeurIPS 2019): a VAE with a code for each of a few concepts of items."),
    "RecVAE": ("VAE", "RecVAE (WSDM 2020): Mult-VAE with a composite prior; encoder and decoder learn in turns."),
    "CDAE": ("VAE", "CDAE (WSDM 2016): denoising autoencoder of a user's row, with a vector for each user."),
    "SASRec": ("sequential", "SASRec (ICDM 2018): self-attention over the history, cross-entropy over all items."),
    "GRU4Rec": ("sequential", "GRU4Rec (ICLR 2016): a recurrent network over the history."),
    "Caser": ("sequential", "Caser (WSDM 2018): convolutions over the latest items."),
    "BERT4Rec": ("sequential", "BERT4Rec (CIKM 2019): bidirectional self-attention, trained to fill in masked items."),
    "Pop": ("simple", "The most popular items, for everybody."),
    "ItemKNN": ("simple", "ItemKNN (TOIS 2004): items like those that the user has, by cosine."),
    "EASE": ("simple", "EASE (WWW 2019): linear item-item model in closed form."),
    "SLIMElastic": ("simple", "SLIM (ICDM 2011): sparse non-negative item-item model, an elastic net for each item."),
    "LightGCN": ("simple", "LightGCN (SIGIR 2020): matrix factorisation averaged over the user-item graph, BPR loss."),
}

_TASKS = ("general_recommender", "sequential_recommender", "context_aware_recommender", "knowledge_aware_recommender")


def find(name: str | None) -> Model | None:
    """The plugin's model of that name, or None."""
    return MODELS.get(name) if isinstance(name, str) else None


def stock_models() -> list[str]:
    """Names of RecBole's own models, which are the stems of its YAML files (the two tree libraries aside)."""
    folder = Path(recbole.__file__).resolve().parent / "properties" / "model"
    return sorted(file.stem for file in folder.glob("*.yaml") if file.stem not in ("lightgbm", "xgboost"))


def get_model(name: str) -> type:
    """The class of a model, the plugin's first; replaces RecBole's lookup.

    RecBole's own answers an unknown name with ``No module named 'lightgbm'`` (RecBole #2172).

    Raises:
        SettingsError: unknown name; the text holds the closest matches.
    """
    model = find(name)
    if model:
        return model.load()
    for task in (*_TASKS, "exlib_recommender") if name in ("lightgbm", "xgboost") else _TASKS:
        path = f"recbole.model.{task}.{name.lower()}"
        if importlib.util.find_spec(path) is not None:
            found = getattr(importlib.import_module(path), name, None)
            if found is not None:
                return found
    raise SettingsError(
        f"unknown model {name!r}{closest(name, [*MODELS, *stock_models()])}; `recbole-diffusion models` lists them all"
    )


def closest(name: str, known: Iterable[str]) -> str:
    """``": did you mean 'X'?"`` for the known names nearest to ``name``, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=2, cutoff=0.6)
    return f": did you mean {' or '.join(repr(by_lower[match]) for match in matches)}?" if matches else ""


def get_dataloader(config: Any, phase: str) -> Any:
    """RecBole's table of data loaders is keyed by model name; this one asks the registry first."""
    from recbole_diffusion.adapter.sequences import SequenceDataLoader
    from recbole_diffusion.data import dataloader

    model = find(config["model"])
    if model is None:
        return _STOCK["get_dataloader"](config, phase)
    if phase == "train" and model.stock_yaml:
        return recbole.data.utils.UserDataLoader
    if phase == "train" and model.reads_history:
        return dataloader.HistoryDataLoader
    if phase == "train" and model.packs and config["train_positions"] == "all":
        return SequenceDataLoader
    if phase != "train" and model.reads_history and config["eval_args"]["mode"][phase] == "full":
        return dataloader.UserBatchEvalDataLoader
    return _STOCK["get_dataloader"](config, phase)


def run_recboles(rank: int, *args: Any) -> None:
    """RecBole's worker of a multi-process run. A spawned process imports this module, hence the plugin, to find it."""
    _STOCK["run_recboles"](rank, *args)


_STOCK: dict[str, Callable[..., Any]] = {}


def register() -> None:
    """Makes RecBole find our models, settings, data loaders and checkpoints; a second call changes nothing."""
    from recbole_diffusion import checkpoint, config, metrics
    from recbole_diffusion.adapter.sequences import SequenceDataset

    if _STOCK:
        return
    _STOCK["get_dataloader"] = recbole.data.utils.get_dataloader
    _STOCK["run_recboles"] = recbole.quick_start.quick_start.run_recboles
    _replace(recbole.data.utils.get_dataloader, get_dataloader)
    _replace(recbole.utils.utils.get_model, get_model)
    _replace(recbole.quick_start.quick_start.run_recboles, run_recboles)
    config.patch_config()
    metrics.register()
    checkpoint.patch_trainer()
    # RecBole's classes of the same name are loaded before their module names point to ours.
    for model in sorted(MODELS.values(), key=lambda model: not model.stock_yaml):
        _alias(model)
        trainer = model.load_trainer()
        if trainer is not None:
            setattr(recbole.trainer, trainer.__name__, trainer)  # where RecBole's get_trainer looks first
        if model.packs:
            setattr(recbole.data.dataset, f"{model.name}Dataset", SequenceDataset)  # where create_dataset looks first


def _replace(stock: Callable[..., Any], ours: Callable[..., Any]) -> None:
    """Rebinds a function in every loaded RecBole module: RecBole copies such names by ``from ... import``."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "recbole" and getattr(module, stock.__name__, None) is stock:
            setattr(module, stock.__name__, ours)


def _alias(model: Model) -> None:
    """Lets ``recbole.model.<task>.<name>`` be our module, for code that looks models up by path."""
    cls = model.load()
    package = sys.modules[f"recbole.model.{model.task}"]
    sys.modules[f"{package.__name__}.{model.name.lower()}"] = sys.modules[cls.__module__]
    setattr(package, model.name, cls)


def listed() -> dict[str, list[str]]:
    """Names of all models by group: the groups of our tables, then RecBole's other models by kind."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in [*MODELS, *(name for name in stock_models() if name not in MODELS)]:
        groups.setdefault(group_of(name), []).append(name)
    return {group: names for group, names in groups.items() if names}


def group_of(name: str) -> str:
    """The group of a model in lists and tables."""
    model = find(name)
    if model:
        return model.group
    if name in _BASELINES:
        return _BASELINES[name][0]
    kind = get_model(name).type
    return {
        ModelType.GENERAL: "RecBole: general",
        ModelType.TRADITIONAL: "RecBole: general",
        ModelType.SEQUENTIAL: "RecBole: sequential",
    }.get(kind, f"RecBole: {kind.name.lower()}")


def describe(name: str) -> str:
    """One line about a model: the first of its docstring, which RecBole's do not all begin with what the model is."""
    if name in _BASELINES:
        return _BASELINES[name][1]
    return next((line.strip() for line in (get_model(name).__doc__ or "").splitlines() if line.strip()), "")
