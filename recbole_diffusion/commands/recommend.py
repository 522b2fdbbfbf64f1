"""``recbole-diffusion recommend``: top-k lists of a trained model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from recbole_diffusion.settings import SettingsError

_EXAMPLES = """\
examples:
  recbole-diffusion recommend saved/DreamRec-ml-100k-0123456789.pth --users 196 186 --names
  recbole-diffusion recommend saved/DreamRec-ml-100k-0123456789.pth --history "50 181 172" --history "1 588"
  recbole-diffusion recommend saved/DiffRec-ml-100k-0123456789.pth --k 20 --out lists.parquet
  recbole-diffusion recommend saved/DiffRec-ml-100k-0123456789.pth --users-file users.txt --out lists.jsonl

Without --users, --history or their files: all users. Ids are those of the data set. A user's items are those of all parts of
the data, in time order; a sequential model reads the latest of them. Histories are for sequential models and for general
models that read a user's row (DiffRec, EASE, MultiVAE ...). .csv and .parquet have a row for every item, .jsonl a line for
every user. Unknown users and items are named on standard error; the exit status is 2 if nobody is left.
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "recommend",
        help="top-k lists of a trained model, for users or for raw histories",
        description="Recommends items to users, or for histories of anybody; nothing is trained.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file that a run saved (saved/*.pth)")
    parser.add_argument("--users", nargs="+", metavar="ID", help="users (default: all)")
    parser.add_argument("--users-file", metavar="FILE", help="users, one per line")
    history = "item ids, oldest first, separated by blanks; may be given several times"
    parser.add_argument("--history", action="append", metavar="IDS", help=history)
    parser.add_argument("--history-file", metavar="FILE", help="histories, one per line")
    parser.add_argument("--k", type=int, default=10, metavar="N", help="length of a list (default: %(default)s)")
    formats = ".csv, .parquet (needs pyarrow) or .jsonl"
    parser.add_argument("--out", metavar="FILE", default="-", help=f"{formats} (default: CSV on standard output)")
    parser.add_argument("--names", action="store_true", help="add the items' names, where the data set has them")
    parser.add_argument("--keep-seen", action="store_true", help="also recommend what the user has had")
    inputs = "train: only the training part is what a user has had (default: all parts)"
    parser.add_argument("--input", choices=("all", "train"), default="all", help=inputs)
    near = "search item embeddings (DreamRec ...) with faiss, and print the recall against exact search (needs faiss-cpu)"
    parser.add_argument("--approximate", action="store_true", help=near)
    parser.add_argument("--trust-pickle", action="store_true", help="also read RecBole's pickles, which can run any code")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    from recbole_diffusion.recommendation.recommend import recommend

    recommend(
        options.checkpoint,
        _both(options.users, options.users_file, blank=False),
        histories=_both(options.history, options.history_file, blank=True),
        k=options.k,
        out=options.out,
        keep_seen=options.keep_seen,
        input=options.input,
        names=options.names,
        approximate=options.approximate,
        trust_pickle=options.trust_pickle,
        # A bar among the lists of a terminal would be in their way.
        show_progress=sys.stderr.isatty() and not (options.out == "-" and sys.stdout.isatty()),
    )


def _both(given: list[str] | None, file: str | None, *, blank: bool) -> list[str] | None:
    """What the command line and the lines of a file say, with or without blank lines; None if there is neither."""
    if file is None:
        return given
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"file {file!r}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    return [*(given or []), *(line.strip() for line in lines if blank or line.strip())]
