"""``recbole-diffusion models``: lists the models."""

from __future__ import annotations

import argparse
from typing import Any

from recbole_diffusion import registry

_EXAMPLES = """\
examples:
  recbole-diffusion models
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "models",
        help="list the models",
        description="Lists every model, by group, with one line each.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    for group, names in registry.listed().items():
        print(f"{group}")
        for name in names:
            print(f"  {name:<14} {registry.describe(name)}"[:120])
