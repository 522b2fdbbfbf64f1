"""Diffusion models for recommendation, as a plugin of RecBole.

Importing the package makes our models known to RecBole and repairs it on today's libraries, so that stock entry points
such as ``recbole.quick_start.run_recbole(model="DreamRec")`` find them. Both happen when RecBole itself is first imported
(:mod:`recbole_diffusion.on_import`): ``recbole-diffusion --help`` need not wait for torch.
"""

from importlib import import_module
from typing import Any

from recbole_diffusion import on_import
from recbole_diffusion.version import __version__

on_import.install_with_recbole()

_PUBLIC = {
    "load_data_and_model": "recbole_diffusion.adapter.checkpoint",
    "recommend": "recbole_diffusion.recommendation.recommend",
    "register": "recbole_diffusion.adapter",
    "run_recbole_diffusion": "recbole_diffusion.run",
    "trust_pickles": "recbole_diffusion.adapter.pickles",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
