"""What a model computes from its weights before it scores, kept until the weights change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


class DerivedFromWeights:
    """Mixin before a RecBole model that scores with something composed from its weights.

    A parameter's version counts its in-place changes, so equal versions mean equal weights, except after torch's fused
    optimisers, which change weights without counting. Therefore nothing is kept across training either.
    """

    _derived: tuple[Any, Any] | None = None
    training: bool

    def train(self, mode: bool = True) -> Any:
        """Switches between training and evaluation, and forgets what was computed before."""
        self._derived = None
        return super().train(mode)  # type: ignore[misc]

    def derived(self, parameters: Iterable[nn.Parameter], make: Callable[[], T]) -> T:
        """What ``make()`` returns, which is called again only after one of the parameters has changed."""
        state = tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
        if self.training or self._derived is None or self._derived[0] != state:
            self._derived = state, make()
        return self._derived[1]
