"""``recbole-diffusion convert``: the papers' own data files as RecBole data sets."""

from __future__ import annotations

import argparse
from typing import Any

from recbole_diffusion.settings import SettingsError

_EXAMPLES = """\
examples:
  recbole-diffusion convert --from diffrec DiffRec/datasets/ml-1m_clean dataset
  recbole-diffusion convert --from dreamrec DreamRec/data/zhihu dataset --name zhihu
  recbole-diffusion run --model=DiffRec --dataset=ml-1m_clean --data_path=dataset
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
    kinds = ("diffrec", "dreamrec", "lightgcn", "s3rec")
    parser.add_argument("--from", dest="kind", required=True, choices=kinds, help="whose format the source has")
    parser.add_argument("src", metavar="SRC", help="folder with the source's files (s3rec: the file)")
    parser.add_argument("dst", metavar="DST", help="folder of data sets, RecBole's data_path")
    parser.add_argument("--name", help="name of the data set (default: that of SRC)")
    parser.add_argument("--force", action="store_true", help="replace what an earlier conversion wrote")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    from recbole_diffusion.convert.convert import convert

    try:
        report = convert(options.kind, options.src, options.dst, options.name, options.force)
    except (ValueError, OSError) as error:
        raise SettingsError(str(error)) from error
    print(report.table())
