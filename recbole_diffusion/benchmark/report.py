"""Everything that is made from the records of a results folder: pages, one HTML page of all boards, pictures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from recbole_diffusion.benchmark import html
from recbole_diffusion.benchmark.boards import read_pages
from recbole_diffusion.benchmark.pages import check_pages, write_pages
from recbole_diffusion.benchmark.pictures import stale_pictures, write_pictures


def write_report(results: Path) -> list[str]:
    """Writes it all; returns the files' names. Without matplotlib there are no new pictures, which it says.

    Raises:
        SettingsError: a file of users' values is gone, or is not the one that its record names.
    """
    written = write_pages(results)
    if not read_pages(results):
        return written
    html.write_html(results)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures without matplotlib: pip install 'recbole_diffusion[plot]'", file=sys.stderr)
        return [*written, html.NAME]
    return [*written, html.NAME, *write_pictures(results)]


def stale(results: Path) -> list[str]:
    """Names of the files that are not what the records say.

    Raises:
        SettingsError: as :func:`write_report`.
    """
    return [*check_pages(results), *([html.NAME] if html.is_stale(results) else []), *stale_pictures(results)]
