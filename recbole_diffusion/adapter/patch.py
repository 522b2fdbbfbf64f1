"""The one way in which we change RecBole: replace something by what is made of the original, once.

RecBole's files are never touched. Everything that we replace in it goes through :func:`replace`, so searching for that name
finds every change.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable
from typing import Any

_MARK = "__recbole_diffusion__"


def replace(owner: Any, name: str, make: Callable[[Any], Any], *, everywhere: bool = False) -> None:
    """Replaces ``owner.name`` by ``make(original)``; a second call with the same ``make`` changes nothing.

    Args:
        owner: a class or a module of RecBole. A builtin that a module uses, such as ``len``, is replaced by a global of that
            name in the module.
        name: of the attribute.
        make: returns the replacement. The original stays as its ``__wrapped__``.
        everywhere: replace the name also in every other module of RecBole that has copied it by ``from ... import``.
    """
    original = getattr(owner, name, None) or getattr(builtins, name)
    inner = original
    while hasattr(inner, _MARK):
        if getattr(inner, _MARK) is make.__code__:
            return
        inner = inner.__wrapped__
    replacement = make(original)
    setattr(replacement, _MARK, make.__code__)
    replacement.__wrapped__ = original
    setattr(owner, name, replacement)
    if everywhere:
        for path, module in list(sys.modules.items()):
            if path.split(".")[0] == "recbole" and getattr(module, name, None) is original:
                setattr(module, name, replacement)


class ChangedModule(types.ModuleType):
    """A module with something else under some of its names, for one importer of it."""

    def __init__(self, original: types.ModuleType, **changed: Any) -> None:
        super().__init__(original.__name__)
        self._original = original
        vars(self).update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_original"], name)
