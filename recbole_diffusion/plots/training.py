"""The course of a training, from the records of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recbole_diffusion.plots.figure import new_figure
from recbole_diffusion.settings import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_training(records: Sequence[dict[str, Any]]) -> Figure:
    """Draws loss and validation score by epoch, a line for each record; a ring marks the epoch that was chosen.

    Args:
        records: of :func:`recbole_diffusion.benchmark.record.make_record`, of one protocol.

    Raises:
        SettingsError: records whose validation scores cannot be compared.
    """
    first = records[0]
    kinds = list(dict.fromkeys((record["protocol"], record["settings"]["valid_metric"]) for record in records))
    if len(kinds) > 1:
        shown = "; ".join(f"{protocol}, {metric}" for protocol, metric in kinds)
        raise SettingsError(f"the records are of several protocols or validation metrics ({shown}): give those of one")
    names = " and ".join(dict.fromkeys(f"{record['model']} on {record['dataset']}" for record in records))
    figure, axes = new_figure(f"Training of {names}, protocol {first['protocol']}", 1, 2, 10, 4)
    loss, score = axes[0]
    for record in records:
        curve, label = record["curve"], f"{record['model']}, seed {record['seed']}, {record['settings_hash']}"
        loss.plot([e["epoch"] + 1 for e in curve], [e["train_loss"] for e in curve], label=label)
        scored = {e["epoch"] + 1: e["valid_score"] for e in curve if "valid_score" in e}
        (line,) = score.plot(list(scored), list(scored.values()), label=label)
        if record["best_epoch"] is not None:
            best = record["best_epoch"] + 1
            score.plot([best], [scored[best]], "o", markersize=10, fillstyle="none", color=line.get_color())
    loss.set(xlabel="epoch", ylabel="mean training loss of a batch")
    score.set(xlabel="epoch", ylabel=f"{first['settings']['valid_metric']} on validation")
    score.legend(fontsize=8)
    return figure
