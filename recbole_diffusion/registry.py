"""The list of models: ours, and RecBole's own with what our tables say of them. Needs neither torch nor RecBole.

To add a model: write ``model/<family>/<name>.py``, its defaults in ``properties/model/<Name>.yaml``, and one line in
:data:`MODELS`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the plugin.

    Attributes:
        name: class name, also the name users give.
        task: RecBole's folder for it, ``general_recommender`` or ``sequential_recommender``.
        group: heading in the list of models.
        module: file name without ``.py``; the lower-case name unless several classes share a file.
        protocol: evaluation protocol where the user names none; None leaves RecBole's defaults.
        trainer: module in ``recbole_diffusion.adapter.trainer`` that has the class ``<name>Trainer``, for a model that
            RecBole's own trainer cannot train; empty: RecBole's.
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
        return getattr(importlib.import_module(f"recbole_diffusion.adapter.trainer.{self.trainer}"), f"{self.name}Trainer")


def _general(name: str, group: str, **more: Any) -> Model:
    return Model(name, "general_recommender", group, protocol="ratio-80-10-10", reads_history=True, **more)


def _sequential(name: str, group: str, **more: Any) -> Model:
    return Model(name, "sequential_recommender", group, protocol="leave-one-out", **more)


def _stock(name: str) -> Model:
    return Model(f"Stock{name}", "general_recommender", "diffusion", module="stock", stock_yaml=name)


# RecBole finds a model's class, YAML file, data loader and trainer by its name, in tables of its own. This list is what
# adapter/ completes those tables from; a model that is missing here gets RecBole's defaults, silently.
MODELS = {
    model.name: model
    for model in (
        _general("DiffRec", "diffusion"),
        _general("TDiffRec", "diffusion", module="diffrec"),
        _general("LDiffRec", "diffusion", trainer="ldiffrec"),
        _general("LTDiffRec", "diffusion", module="ldiffrec", trainer="ldiffrec"),
        _general("GiffCF", "diffusion"),
        _general("BSPM", "diffusion"),
        _general("FlowCF", "diffusion"),
        _sequential("DreamRec", "diffusion", packs=True, trainer="staged"),
        _sequential("DiffuRec", "diffusion", packs=True),
        _sequential("PreferDiff", "diffusion", packs=True),
        _sequential("ADRec", "diffusion", packs=True, trainer="staged"),
        _sequential("FMRec", "diffusion", packs=True),
        _sequential("MaskDiff", "diffusion", packs=True),
        _sequential("PriorDiff", "diffusion", packs=True),
        _sequential("BBDRec", "diffusion", packs=True, trainer="staged"),
        _sequential("PackedSASRec", "sequential", packs=True),
        _sequential("PackedGRU4Rec", "sequential", packs=True),
        _general("CFGAN", "GAN", trainer="gan"),
        _general("AAE", "GAN", trainer="gan"),
        _general("IRGAN", "GAN", trainer="gan"),
        _general("TEASE", "simple"),
        _sequential("SequentialKNN", "simple", trainer="closed_form"),
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

_TASKS = {
    "general_recommender": "RecBole: general",
    "sequential_recommender": "RecBole: sequential",
    "context_aware_recommender": "RecBole: context",
    "knowledge_aware_recommender": "RecBole: knowledge",
}


def find(name: str | None) -> Model | None:
    """The plugin's model of that name, or None."""
    return MODELS.get(name) if isinstance(name, str) else None


def model_of(cls: type) -> Model | None:
    """The plugin's model of that class, or None; a class of the user's own may bear the name of one of ours."""
    model = find(cls.__name__)
    return model if model is not None and model.load() is cls else None


def closest(name: str, known: Iterable[str]) -> str:
    """``": did you mean 'X'?"`` for the known names nearest to ``name``, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=2, cutoff=0.6)
    return f": did you mean {' or '.join(repr(by_lower[match]) for match in matches)}?" if matches else ""


@functools.cache
def recbole_dir() -> Path:
    """The folder of the installed RecBole, which is not imported for it."""
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).resolve().parent


def stock_models() -> list[str]:
    """Names of RecBole's own models, which are the stems of its YAML files (the two tree libraries aside)."""
    folder = recbole_dir() / "properties" / "model"
    return sorted(file.stem for file in folder.glob("*.yaml") if file.stem not in ("lightgbm", "xgboost"))


def listed() -> dict[str, list[str]]:
    """Names of all models by group: the groups of our tables, then RecBole's other models by kind."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in [*MODELS, *(name for name in stock_models() if name not in MODELS)]:
        groups.setdefault(group_of(name), []).append(name)
    return {group: names for group, names in groups.items() if names}


def group_of(name: str) -> str:
    """The group of a model in lists and tables; a class of the user's own is in none of ours."""
    model = find(name)
    if model:
        return model.group
    if name in _BASELINES:
        return _BASELINES[name][0]
    return _TASKS[_source_of(name).parent.name] if name in stock_models() else "your own"


def describe(name: str) -> str:
    """One line about a model: the first of its docstring, which RecBole's do not all begin with what the model is."""
    if name in _BASELINES:
        return _BASELINES[name][1]
    # The source is searched, not imported: importing all models takes seconds.
    text = _source_of(name).read_text(encoding="utf-8")
    docstring = re.search(rf'^class {name}\b[^:]*:\s*r?"""\s*(.*)', text, re.MULTILINE)
    return docstring.group(1).strip().removesuffix('"""').strip() if docstring else ""


def _source_of(name: str) -> Path:
    """The file that defines a model's class."""
    model = find(name)
    if model:
        return Path(__file__).parent / "model" / model.task / f"{model.module or name.lower()}.py"
    return next(file for task in _TASKS if (file := recbole_dir() / "model" / task / f"{name.lower()}.py").is_file())
