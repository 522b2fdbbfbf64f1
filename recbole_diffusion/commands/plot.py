"""``recbole-diffusion plot``: pictures of a schedule, a model and a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from recbole_diffusion.settings import SettingsError

_EXAMPLES = """\
examples:
  recbole-diffusion plot schedule saved/DreamRec-ml-100k-0123456789.pth
  recbole-diffusion plot forward saved/DiffRec-ml-100k-0123456789.pth --user 196
  recbole-diffusion plot reverse saved/DreamRec-ml-100k-0123456789.pth --user 196 --out reverse.svg
  recbole-diffusion plot guidance saved/DreamRec-ml-100k-0123456789.pth --scales 0 1 2 4 8
  recbole-diffusion plot elbo saved/DiffRec-ml-100k-0123456789.pth
  recbole-diffusion plot training dreamrec-seed1.json dreamrec-seed2.json
  recbole-diffusion plot setting dreamrec-seed1.json dreamrec-seed2.json --setting guidance_scale --metrics ndcg@10 recall@10

schedule: betas, signal left, signal-to-noise ratio, loss weights. forward: a user's row, or the embedding of the item that came
next, dissolving into noise. reverse: the generated item moving through the item space, nearest items named. guidance: accuracy
and coverage over w, on validation unless --part says otherwise. elbo: likelihood terms by step. training: loss and validation
score by epoch, from records that `run --record` wrote. setting: test metrics against a number that the records' runs differ in.
"""
_KINDS = ("schedule", "forward", "reverse", "training", "guidance", "elbo", "setting")
_COLUMNS = 60  # items, or dimensions of an embedding, in the heat map


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "plot",
        help="draw a schedule, the diffusion of a trained model, or a training",
        description="Draws a picture as PNG or SVG.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", choices=_KINDS, metavar="KIND", help=", ".join(_KINDS))
    parser.add_argument("source", nargs="+", metavar="FILE", help="a checkpoint; for training and setting, records")
    parser.add_argument("--out", metavar="FILE", help="the picture, .png or .svg (default: KIND.png)")
    parser.add_argument("--user", metavar="ID", help="forward, reverse: whose history (default: the first)")
    scales = [0, 0.5, 1, 2, 4, 8]
    parser.add_argument("--scales", nargs="+", type=float, default=scales, metavar="W", help="guidance: w (default: 0 to 8)")
    parts = ("valid", "test")
    parser.add_argument("--part", choices=parts, default="valid", help="guidance: what is evaluated (default: %(default)s)")
    parser.add_argument("--setting", metavar="KEY", help="setting: which one, such as lambda_noise")
    parser.add_argument("--metrics", nargs="+", metavar="M", help="setting: test metrics (default: the one that selected)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    from recbole_diffusion.plots.figure import check_file, new_figure, save

    out = options.out or f"{options.kind}.png"
    check_file(out)  # before the work, not after it
    new_figure("")
    of_records = {"training": _training, "setting": _setting}
    if options.kind in of_records:
        figure = of_records[options.kind]([_read_record(file) for file in options.source], options)
    elif len(options.source) > 1:
        raise SettingsError(f"plot {options.kind} takes one checkpoint, got {len(options.source)} files")
    else:
        draw = {"schedule": _schedule, "forward": _forward, "reverse": _reverse, "guidance": _guidance, "elbo": _elbo}
        figure = draw[options.kind](options.source[0], options)
    save(figure, out)
    print(f"picture: {out}")


def _training(records: list[dict[str, Any]], options: argparse.Namespace) -> Any:
    from recbole_diffusion.plots.training import plot_training

    return plot_training(records)


def _setting(records: list[dict[str, Any]], options: argparse.Namespace) -> Any:
    from recbole_diffusion.plots.board import plot_setting

    key = options.setting
    if key is None:
        raise SettingsError("plot setting needs --setting KEY, a number that the records' runs differ in")
    for file, record in zip(options.source, records, strict=True):
        value = record["settings"].get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SettingsError(f"record {file!r}: {record['model']} has no setting {key!r} that is a number")
    metrics = options.metrics or [records[0]["settings"]["valid_metric"].lower()]
    for metric in metrics:
        for file, record in zip(options.source, records, strict=True):
            known = {**record["test"], **record.get("beyond_accuracy", {})}
            if metric not in known:
                raise SettingsError(f"record {file!r}: no test metric {metric!r}; known: {', '.join(sorted(known))}")
    names = " and ".join(dict.fromkeys(f"{record['model']} on {record['dataset']}" for record in records))
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        rows.setdefault(record["model"], []).append(record)
    return plot_setting(f"{names}: {key}", rows, key, metrics)


def _read_record(file: str) -> dict[str, Any]:
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"record {file!r}: {getattr(error, 'strerror', None) or 'not JSON'}") from error
    if not isinstance(record, dict) or not record.get("curve"):
        raise SettingsError(f"record {file!r}: has no training curve; write one with `recbole-diffusion run --record {file}`")
    return record


def _load(file: str) -> tuple[Any, ...]:
    """Config, model, data set and the three loaders of a checkpoint whose model diffuses."""
    from recbole_diffusion.adapter.trained import load_trained

    config, model, *data = load_trained(file)
    if getattr(model, "process", None) is None:
        raise SettingsError(f"checkpoint {file!r}: {config['model']} has no diffusion process to draw")
    return config, model.eval(), *data


def _title(config: Any, model: Any, what: str) -> str:
    s = model.settings
    return f"{config['model']} on {config['dataset']}: {what}\nT = {model.process.n_steps}, schedule {s.noise_schedule}"


def _schedule(file: str, options: argparse.Namespace) -> Any:
    from recbole_diffusion.plots.schedule import plot_schedule

    config, model, *_ = _load(file)
    return plot_schedule(model.process, _title(config, model, "noise schedule"))


def _forward(file: str, options: argparse.Namespace) -> Any:
    import torch

    from recbole_diffusion.plots.forward import plot_forward

    config, model, dataset, train, _, test = _load(file)
    row, user = _test_row(test._dataset, options.user)
    with torch.no_grad():
        _, x_0 = model.elbo_batch(row.to(config["device"]))
    x_0 = x_0[0]
    if hasattr(model, "likelihood_of"):  # a general model: the row itself, what the user has first
        shown = torch.argsort(x_0, descending=True, stable=True)[:_COLUMNS].tolist()
        title = f"the training row of user {user} dissolves"
        columns = f"items: what the user has, then others ({len(shown)} shown)"
    else:
        shown = list(range(min(_COLUMNS, len(x_0))))
        title = f"the embedding of user {user}'s next item dissolves"
        columns = f"dimension ({len(shown)} of {len(x_0)} shown)"
    return plot_forward(x_0, model.process, _title(config, model, title), columns, shown)


def _reverse(file: str, options: argparse.Namespace) -> Any:
    from recbole_diffusion.adapter.item_names import item_names
    from recbole_diffusion.plots.reverse import plot_reverse, reverse_path

    config, model, dataset, _, _, test = _load(file)
    row, user = _test_row(test._dataset, options.user)
    path = reverse_path(model, row.to(config["device"]))
    history = [item - 1 for item in row[model.ITEM_SEQ][0].tolist() if item > 0]
    names = item_names(config, dataset)
    scale = model.settings.guidance_scale
    title = _title(config, model, f"an item is generated for user {user}") + f", guidance w = {scale:g}"
    return plot_reverse(path, model.item_embedding.weight[1:], names, history, int(row[model.ITEM_ID][0]) - 1, title)


def _guidance(file: str, options: argparse.Namespace) -> Any:
    from recbole_diffusion.plots.guidance import guidance_curve, plot_guidance

    if min(options.scales) < 0:
        raise SettingsError(f"--scales {min(options.scales):g}: must be >= 0")
    config, model, _, train, valid, test = _load(file)
    rows = guidance_curve(config, model, train, test if options.part == "test" else valid, options.scales)
    return plot_guidance(rows, _title(config, model, f"guidance, {options.part} part"))


def _elbo(file: str, options: argparse.Namespace) -> Any:
    from recbole_diffusion.analysis.elbo import elbo_of, load_part
    from recbole_diffusion.plots.elbo import plot_elbo

    _, model, data = load_part(file, "test")
    return plot_elbo(elbo_of(model, data, progress=True))


def _test_row(part: Any, user: str | None) -> tuple[Any, str]:
    """The first row of the test part that belongs to a user, and the user's id.

    Raises:
        SettingsError: no such user, or one without a test item.
    """
    users, field = part.inter_feat[part.uid_field], part.uid_field
    if user is not None and user not in part.field2token_id[field]:
        raise SettingsError(f"--user {user}: the data set has no such user")
    number = int(users[0]) if user is None else part.field2token_id[field][user]
    rows = (users == number).nonzero()[:, 0]
    if not len(rows):
        raise SettingsError(f"--user {user}: the user has no item in the test part")
    return part.inter_feat[rows[:1]], str(part.field2id_token[field][number])
