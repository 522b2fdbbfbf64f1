"""Tables in double precision: a module that keeps them so, and how they are read."""

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


def at(table: Tensor, t: Tensor, like: Tensor, sqrt: bool = False) -> Tensor:
    """table[t], or its root, in ``like``'s type, shaped to broadcast against ``like`` [B, ...].

    ``t`` is [B], or has more of ``like``'s leading dimensions: [B, L] for a time of its own at each position.
    """
    values = table[t].sqrt() if sqrt else table[t]
    return values.to(like.dtype).view(*t.shape, *[1] * (like.dim() - t.dim()))
