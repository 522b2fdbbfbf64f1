"""The three parts of a data set: none of them may be empty, but a validation part that the data bring empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recbole.data.dataset import Dataset

from recbole_diffusion.adapter.config import is_checked
from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.settings import SettingsError


def install() -> None:
    """Refuses an empty part before anything is trained; a second call changes nothing."""
    replace(Dataset, "build", _refuse_empty_parts)


def _refuse_empty_parts(original: Callable[..., Any]) -> Callable[..., Any]:
    def build(self: Any) -> Any:
        parts = original(self)
        if is_checked(self.config, self.config.model_class):
            for name, part in zip(("training", "validation", "test"), parts, strict=False):
                # Data whose given validation part is empty say themselves that nothing is selected (LightGCN's papers).
                without = name == "validation" and self.config["benchmark_filename"]
                if not len(part.inter_feat) and not without:
                    told = self.config["benchmark_filename"] or self.config["eval_args"]["split"]
                    raise SettingsError(
                        f"dataset {self.config['dataset']!r}: the {name} part is empty; {told} splits it so"
                    )
        return parts

    return build
