"""``recbole-diffusion convert``: the papers' own data files as RecBole data sets."""

from __future__ import annotations

import argparse
from typing import Any

from recbole_diffusion.settings import SettingsError

_EXAMPLES = """\
examples:
  recbole-diffusion convert --from diffrec DiffRec/datasets/ml-1m_clean dataset
  recbole-diffusion convert --from dreamrec DreamRec/data/zhihu dataset --name zhihu
  recbole-diffusion convert --from ratings ratings.csv dataset --name mine --min-rating 4
  recbole-diffusion run --model=DiffRec --dataset=ml-1m_clean --data_path=dataset

formats:
  diffrec   train_list.npy, valid_list.npy, test_list.npy
  dreamrec  data_statis.df, train_data.df, val_data.df, test_data.df
  lightgcn  train.txt, test.txt and optionally valid.txt: a line per user, `user item item ...`
  ratings   a file, or a folder with train.txt, test.txt and optionally valid.txt: a line per interaction,
            `user item [rating [time]]`, separated by blanks, tabs or commas (CFGAN, IRGAN and many more)
  s3rec     a file: a line per user, `user item item ...` in time order
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "convert",
        help="turn the papers' own data files into a RecBole data set",
        description="Writes RecBole's atomic files and the YAML that reads them to DST/NAME; refuses malformed files.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kinds = ("diffrec", "dreamrec", "lightgcn", "ratings", "s3rec")
    parser.add_argument("--from", dest="kind", required=True, choices=kinds, help="whose format the source has")
    parser.add_argument("src", metavar="SRC", help="folder with the source's files, or the file (see formats)")
    parser.add_argument("dst", metavar="DST", help="folder of data sets, RecBole's data_path")
    parser.add_argument("--name", help="name of the data set (default: that of SRC)")
    parser.add_argument("--force", action="store_true", help="replace what an earlier conversion wrote")
    parser.add_argument(
        "--min-rating", type=float, metavar="R", help="keep only ratings of at least R (with --from ratings; default: all)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    from recbole_diffusion.convert.convert import convert

    try:
        report = convert(options.kind, options.src, options.dst, options.name, options.force, options.min_rating)
    except (ValueError, OSError) as error:
        raise SettingsError(str(error)) from error
    print(report.table())
