"""``recbole-diffusion run``: trains and evaluates a model."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.property_files import names_in
from recbole_diffusion.settings import SettingsError, parse_setting

_EXAMPLES = """\
examples:
  recbole-diffusion run --model=DreamRec
  recbole-diffusion run --model=DiffRec --dataset=ml-100k --learning_rate=3e-4 --dims_dnn=[200,600]
  recbole-diffusion run --model=SASRec --protocol=leave-one-out --record=sasrec.json
  recbole-diffusion run --model=DreamRec --dataset=mine --data_path=datasets --config_files mine.yaml --resume
  recbole-diffusion run --model=DiffRec --nproc=2

Every setting of RecBole or of the model is an option, as --key=value or --key value; words in lists need no quotes of
their own, as in --benchmark_filename=[train,valid,test]. Mistyped keys are errors;
--strict_config=False accepts any key.
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "run",
        help="train and evaluate a model",
        description="Trains a model on a data set and evaluates the epoch that is best on validation on the test part.",
        epilog=_EXAMPLES,
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
    protocols = ", ".join([*names_in("protocol"), "recbole-default"])
    parser.add_argument("--protocol", help=f"evaluation protocol: {protocols}, or a YAML file")
    parser.add_argument(
        "--record", metavar="FILE", help="write the JSON record of the run, and beside it each user's metrics (.users.npz)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the training state at every epoch; go on from it after a kill"
    )
    parser.add_argument(
        "--trust-pickle", action="store_true", help="read pickled data sets and pretrained models, which can run any code"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show all settings, the data and the network (always in the log file)"
    )
    # `benchmark` starts runs with it.
    parser.add_argument("--attended", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=_run, takes_settings=True)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> int:
    """Runs the command; see ``recbole-diffusion run --help``.

    Returns:
        0; of a trial of a search that was stopped early, ``STOPPED``.
    """
    if not options.attended:
        _train(options, rest, arguments)
        return 0
    from recbole_diffusion.benchmark.attended import attended
    from recbole_diffusion.benchmark.workers import STOPPED

    with attended() as orders:
        from recbole_diffusion.benchmark.search import StoppedEarly, watched

        try:
            with watched(orders["trial"], Path(orders["stopped"])):
                _train(options, rest, [argument for argument in arguments if argument != "--attended"])
        except StoppedEarly as stopped:
            print(stopped)
            return STOPPED
    return 0


def _train(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    from recbole_diffusion.benchmark.per_user import users_file
    from recbole_diffusion.benchmark.record import check_record_file, result_table, write_record
    from recbole_diffusion.run import run_recbole_diffusion

    settings = parse_settings(rest)
    if options.protocol is not None:
        settings["protocol"] = options.protocol
    if options.record is not None:
        check_record_file(options.record)
    command = ["recbole-diffusion", *arguments]
    try:
        record = run_recbole_diffusion(
            options.model,
            options.dataset,
            [file for argument in options.config_files for file in files_in(argument)],
            settings,
            users=None if options.record is None else users_file(options.record),
            resume=options.resume,
            trust_pickle=options.trust_pickle,
            verbose=options.verbose,
            command=command,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(command, options.resume)) from None
    overridden = "".join(f", {key} = {value}" for key, value in record["protocol_overrides"].items())
    print(f"\n{record['model']} on {record['dataset']}, protocol {record['protocol']}{overridden}, seed {record['seed']}, "
          f"best epoch {record['best_epoch']} of {record['epochs']}")  # fmt: skip
    print(result_table(record), flush=True)
    if options.record is not None:  # after the table: a full disk costs the record, not the result
        write_record(record, Path(options.record))
    print(f"\n{_what_is_where(record, options.record)}")


def _what_is_where(record: dict[str, Any], record_file: str | None) -> str:
    """The files of a run, one a line, and the commands that may come next."""
    lines = [("checkpoint:", record["checkpoint"]), ("record:", record_file), ("log:", record["log"])]
    lines.append(("next:", shlex.join(["recbole-diffusion", "recommend", record["checkpoint"]])))
    if record_file is not None:
        lines.append(("", shlex.join(["recbole-diffusion", "plot", "training", record_file])))
    return "\n".join(f"{name:<12}{value}" for name, value in lines if value is not None)


def files_in(argument: str) -> list[str]:
    """The files that an argument of ``--config_files`` names: one, whose name may have blanks, or several, as RecBole's own
    scripts take them, between blanks.
    """
    return [argument] if Path(argument).is_file() else argument.split() or [argument]


def _how_to_go_on(command: list[str], resume: bool) -> str:
    """What somebody who has stopped a run may want to know."""
    if resume:
        return f"interrupted; this goes on from the last whole epoch: {shlex.join(command)}"
    again = shlex.join([*command, "--resume"])
    return f"interrupted; no training state was kept to go on from; with --resume it is, at every epoch: {again}"


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
        value = _value(text)
        if settings.setdefault(key, value) != value:
            raise SettingsError(f"--{key} is given twice, as {settings[key]!r} and as {value!r}")
    return settings


def _value(text: str) -> Any:
    """:func:`parse_setting`, with words in brackets that need no quotes: the shell takes them off ``['train']``."""
    value = parse_setting(text)
    if value != text or text[:1] not in ("[", "(", "{"):
        return value
    quoted = parse_setting(_STRING_NUMBER_OR_WORD.sub(_quote, text))
    return text if isinstance(quoted, str) else quoted


_STRING_NUMBER_OR_WORD = re.compile(r"""(?P<as_it_is>"[^"]*"|'[^']*'|[-+]?\.?\d[\w.+-]*)|[^\W\d][\w.@/-]*(?=\s*[],:)}])""")


def _quote(match: re.Match[str]) -> str:
    return match[0] if match["as_it_is"] else repr(parse_setting(match[0]))
