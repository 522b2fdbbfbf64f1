"""The command that makes a run again, from its record."""

from __future__ import annotations

import re
import shlex

from recbole_diffusion.benchmark.boards import Record

_DROPPED = {"record", "checkpoint_dir", "show_progress", "state", "resume", "verbose"}
_FLAGS = {"--resume", "--verbose", "--trust-pickle"}


def command(record: Record) -> str:
    """The command that makes a run again, with the folder of data called ``dataset``; empty if no command made it."""
    given = record.get("command", [])
    if given[:2] != ["recbole-diffusion", "run"]:
        return ""
    kept, queue = given[:2], given[2:]
    while queue:
        option = queue.pop(0)
        if "=" not in option and option not in _FLAGS and queue:
            option = f"{option}={queue.pop(0)}"
        key, _, value = option.removeprefix("--").partition("=")
        value = "dataset" if key == "data_path" else re.sub(r"^'([^']*)'$", r"\1", value)
        if key not in _DROPPED:
            kept.append(_quoted(f"--{key}={value}" if value else option))
    return " ".join([*kept, "--record=again.json"])


def _quoted(word: str) -> str:
    """For the shell, in double quotes where the word has single ones."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)
