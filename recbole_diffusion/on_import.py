"""Runs our installation right after RecBole's own package is imported, whoever imports it.

RecBole takes seconds to import, so that the plugin cannot import it merely to answer ``--help``; and RecBole has to be
repaired before any of its modules is used. An import hook meets both: it waits for ``import recbole`` and installs then.
Without it, either every command waits for torch, or a script that imports RecBole after the plugin gets it unrepaired.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType


def install_with_recbole() -> None:
    """Installs the plugin into RecBole now if RecBole is imported already, otherwise as soon as it is."""
    if "recbole" in sys.modules:
        _install()
    elif not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())


def _install() -> None:
    from recbole_diffusion.adapter.install import install

    install()


class _Hook(importlib.abc.MetaPathFinder):
    """Finds the package ``recbole`` once and appends our installation to its loading."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "recbole":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            option = "--no-deps " if sys.version_info >= (3, 12) else ""
            raise ImportError(f"RecBole is not installed; install it with: pip install {option}recbole==1.2.1")
        load = spec.loader.exec_module

        def load_and_install(module: ModuleType) -> None:
            load(module)
            _install()

        spec.loader.exec_module = load_and_install  # type: ignore[method-assign]
        return spec
