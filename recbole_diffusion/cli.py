"""The ``recbole-diffusion`` command: ``run``, ``models``, ``convert``, ..."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from recbole_diffusion import registry
from recbole_diffusion.benchmark.command import add_benchmark
from recbole_diffusion.benchmark.elbo import add_elbo
from recbole_diffusion.benchmark.record import result_table
from recbole_diffusion.benchmark.speed import add_speed
from recbole_diffusion.compat import parse_setting
from recbole_diffusion.config import protocols
from recbole_diffusion.data.convert import KINDS, convert
from recbole_diffusion.quick_start import run_recbole_diffusion
from recbole_diffusion.settings import SettingsError
from recbole_diffusion.trainer.divergence import NonFiniteLossError
from recbole_diffusion.version import __version__

_RUN_EXAMPLES = """\
examples:
  recbole-diffusion run --model=DreamRec
  recbole-diffusion run --model=DiffRec --dataset=ml-100k --learning_rate=3e-4 --dims_dnn=[200,600]
  recbole-diffusion run --model=SASRec --protocol=leave-one-out --record=sasrec.json
  recbole-diffusion run --model=DreamRec --dataset=mine --data_path=datasets --config_files mine.yaml --resume

Every setting of RecBole or of the model is an option, as --key=value or --key value. Mistyped keys are errors;
--strict_config=False accepts any key.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0, 2 for bad input, 1 for a training that diverged (each one line on standard error), 130 after
        Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options, settings = _parser().parse_known_args(arguments)
    try:
        if settings and not getattr(options, "takes_settings", False):
            raise SettingsError(f"unknown argument {settings[0]!r}; see `recbole-diffusion {options.command} --help`")
        return int(options.run(options, settings, arguments) or 0)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `recbole-diffusion models | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def entry_point() -> None:
    """The console script."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-diffusion", description="Diffusion models for recommendation in RecBole.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"recbole-diffusion {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_models(commands)
    _add_convert(commands)
    add_benchmark(commands)
    add_elbo(commands)
    add_speed(commands)
    return parser


# ------------------------------------------------------------------------------------------------------------- run


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="train and evaluate a model",
        description="Trains a model on a data set and evaluates the epoch that is best on validation on the test part.",
        epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        default="DreamRec",
        help="ours or RecBole's; `recbole-diffusion models` lists them (default: %(default)s)",
    )
    parser.add_argument(
        "--dataset", default="ml-100k", help="name of a data set of RecBole's atomic files (default: %(default)s)"
    )
    parser.add_argument(
        "--config_files", nargs="+", default=[], metavar="FILE", help="YAML files of settings; later ones win"
    )
    parser.add_argument("--protocol", help=f"evaluation protocol: {', '.join(protocols())}, or a YAML file")
    parser.add_argument("--record", metavar="FILE", help="write the JSON record of the run")
    parser.add_argument(
        "--resume", action="store_true", help="keep the training state at every epoch; go on from it after a kill"
    )
    parser.set_defaults(run=_run, takes_settings=True)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    settings = parse_settings(rest)
    if options.protocol:
        settings["protocol"] = options.protocol
    record = run_recbole_diffusion(
        options.model,
        options.dataset,
        # RecBole's own scripts take the files as one argument with blanks.
        [file for argument in options.config_files for file in argument.split()],
        settings,
        record=options.record,
        resume=options.resume,
        command=["recbole-diffusion", *arguments],
    )
    overridden = "".join(f", {key} = {value}" for key, value in record["protocol_overrides"].items())
    print(f"\n{record['model']} on {record['dataset']}, protocol {record['protocol']}{overridden}, seed {record['seed']}, "
          f"best epoch {record['best_epoch']} of {record['epochs']}")  # fmt: skip
    print(result_table(record))


def parse_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Settings from ``--key=value`` and ``--key value``.

    Raises:
        SettingsError: something that is neither, a key without a value, or a key given twice with different values.
    """
    settings: dict[str, Any] = {}
    queue = list(arguments)
    while queue:
        option = queue.pop(0)
        key, equals, text = option.removeprefix("--").partition("=")
        if not option.startswith("--") or not key:
            raise SettingsError(f"unexpected argument {option!r}; settings are --key=value or --key value")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise SettingsError(f"--{key} has no value; settings are --key=value or --key value")
            text = queue.pop(0)
        value = parse_setting(text)
        if settings.setdefault(key, value) != value:
            raise SettingsError(f"--{key} is given twice, as {settings[key]!r} and as {value!r}")
    return settings


# ---------------------------------------------------------------------------------------------------------- models


def _add_models(commands: Any) -> None:
    parser = commands.add_parser(
        "models", help="list the models", description="Lists every model, by group.", allow_abbrev=False
    )
    parser.set_defaults(run=_models)


def _models(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    for group, names in registry.listed().items():
        print(f"{group}")
        for name in names:
            print(f"  {name:<14} {registry.describe(name)}"[:120])


# --------------------------------------------------------------------------------------------------------- convert

_CONVERT_EXAMPLES = """\
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


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn the papers' own data files into a RecBole data set",
        description="Writes RecBole's atomic files and the YAML that reads them to DST/NAME; refuses malformed files.",
        epilog=_CONVERT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--from", dest="kind", required=True, choices=sorted(KINDS), help="whose format the source has")
    parser.add_argument("src", metavar="SRC", help="folder with the source's files, or the file (see formats)")
    parser.add_argument("dst", metavar="DST", help="folder of data sets, RecBole's data_path")
    parser.add_argument("--name", help="name of the data set (default: that of SRC)")
    parser.add_argument("--force", action="store_true", help="replace what an earlier conversion wrote")
    parser.add_argument(
        "--min-rating", type=float, metavar="R", help="keep only ratings of at least R (with --from ratings; default: all)"
    )
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    try:
        report = convert(options.kind, options.src, options.dst, options.name, options.force, options.min_rating)
    except (ValueError, OSError) as error:
        raise SettingsError(str(error)) from error
    print(report.table())


if __name__ == "__main__":
    entry_point()
