"""A module whose tables stay in double precision."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class DoubleTables(nn.Module):
    """Module holding float64 buffers that follow it from device to device but never change precision.

    ``model.half()`` or ``model.to(torch.bfloat16)`` would otherwise round the schedule too, and 1 - abar_t of DiffRec's
    range (2.5e-5) does not survive that. Tables are cast to the data's type after they have been gathered instead.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in before.items():
            self._buffers[name] = table.to(self._buffers[name].device)  # type: ignore[union-attr]
        return self
