"""``recbole-diffusion elbo``: the likelihood terms of a trained model."""

from __future__ import annotations

import argparse
from typing import Any

_EXAMPLES = """\
examples:
  recbole-diffusion elbo saved/DiffRec-ml-100k-0123456789.pth
  recbole-diffusion elbo saved/DreamRec-ml-100k-0123456789.pth --part valid --samples 1 --rows 200 --json terms.json


DiffRec's totals compare at the same data, split and beta_1; DreamRec's not between runs, whose embeddings differ in size. L_0
is minus the logarithm of a density: it and the total can be negative. MaskDiff's and PriorDiff's probability of the target item
is exact, and compares between runs on the same data.
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "elbo",
        help="likelihood of a trained model",
        description="Computes the likelihood terms of a trained DiffRec (nats per user) or DreamRec (nats per target item), or "
        "the probability of the target item by MaskDiff or PriorDiff (nats per target item).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file that a run saved (saved/*.pth)")
    parts = ("train", "valid", "test")
    parser.add_argument("--part", choices=parts, default="test", help="whose users or targets (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2, metavar="N", help="draws of x_t per row and t (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="at most N random rows (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write every number, L_t for all t among them")
    parser.add_argument("--plot", metavar="FILE", help="draw L_t against t, as .png or .svg (needs matplotlib)")
    parser.add_argument("--trust-pickle", action="store_true", help="also read RecBole's pickles, which can run any code")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    from recbole_diffusion.analysis.elbo import check_counts, elbo_of, elbo_table, load_part, writing
    from recbole_diffusion.benchmark.record import settings_hash, write_record
    from recbole_diffusion.plots.elbo import plot_elbo
    from recbole_diffusion.plots.figure import check_file, new_figure, save
    from recbole_diffusion.settings import SettingsError

    check_counts(samples=options.samples, rows=options.rows)
    if options.plot:
        check_file(options.plot)  # before the work, not after it
        new_figure("")
    config, model, data = load_part(options.checkpoint, options.part, options.trust_pickle)
    if options.plot and not hasattr(model, "elbo_batch"):
        raise SettingsError(f"--plot: {config['model']} has no terms by t to draw")
    if options.json:
        with writing(options.json):  # says now if the folder cannot be made
            pass
    result = elbo_of(model, data, samples=options.samples, rows=options.rows, progress=True)
    result = {"checkpoint": options.checkpoint, "settings_hash": settings_hash(config), "part": options.part} | result
    print(elbo_table(result))
    if options.json:
        with writing(options.json) as path:
            write_record(result, path)
    if options.plot:
        save(plot_elbo(result), options.plot)
