"""The tables of docs/performance.md: ``python -m recbole_diffusion.speed.page [--check]``.

Reads ``results/speed/*.json``, which ``recbole-diffusion speed --json`` wrote. Nothing between the two marks is typed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_diffusion.benchmark.record import read_records
from recbole_diffusion.speed.report import markdown

BEGIN, END = "<!-- speed tables: generated -->", "<!-- end of speed tables -->"


def with_tables(page: str, folder: Path) -> str:
    """The page with the tables of all records of a folder between its marks.

    Raises:
        ValueError: a page without the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must hold the lines {BEGIN!r} and {END!r}")
    tables = "\n".join(markdown(record) for record in read_records(folder))
    return f"{before}{begin}\n\n{tables}\n{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables into the page, or with ``--check`` tells whether they are what the records say (status 1 if not)."""
    parser = argparse.ArgumentParser(prog="python -m recbole_diffusion.speed.page", description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--records", type=Path, default=Path("results/speed"))
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of step")
    options = parser.parse_args(argv)
    page = options.page.read_text(encoding="utf-8")
    expected = with_tables(page, options.records)
    if options.check and page != expected:
        print(f"{options.page} is not what {options.records} says", file=sys.stderr)
        return 1
    if not options.check:
        options.page.write_text(expected, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
