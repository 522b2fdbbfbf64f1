"""README.md in both languages: the same structure, and the values of the pages of results that it quotes."""

import re
from pathlib import Path

import pytest

from recbole_diffusion.registry import MODELS

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README_CN.md")
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in READMES)
# Rows of the pages that are diffusion models, under any settings that leave some diffusion; those of DreamRec's study begin
# with its loss.
_NAMES = "|".join(name for name, model in MODELS.items() if model.group == "diffusion")
DIFFUSION = re.compile(rf"(?!.*(?:no diffusion|prior after training))(?:{_NAMES}|(L|T|LT)-DiffRec|mse)")


def outside_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text):
    return [len(marks) for marks in re.findall(r"^(#+) ", outside_code(text), re.MULTILINE)]


def code(text):
    return re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)


def tables(text):
    """Every table, a list of rows, each a list of cells; the heading first."""
    blocks = re.findall(r"^\|.*\n\|[ |-]+\n(?:\|.*\n)+", text, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()] for block in blocks]
    return [[heading, *body] for heading, _, *body in rows]


def untranslated(table):
    return re.findall(r"`[^`]+`|[\d.]+(?: \+- [\d.]+)?", " ".join(sum(table, [])))


def links(text):
    return re.findall(r"\]\(([^)#]+)(?:#([\w-]+))?\)", outside_code(text))


def test_both_readmes_have_the_same_structure():
    assert headings(ENGLISH) == headings(CHINESE)
    assert code(ENGLISH) == code(CHINESE)
    for english, chinese in zip(tables(ENGLISH), tables(CHINESE), strict=True):
        assert [len(row) for row in english] == [len(row) for row in chinese]
        # Commands, names of models, values and pages are the same in both languages; only prose is translated.
        assert untranslated(english) == untranslated(chinese)
    assert {target for target, _ in links(ENGLISH)} ^ {target for target, _ in links(CHINESE)} == set(READMES)


def test_every_model_of_ours_is_named():
    assert set(MODELS) <= set(re.findall(r"`(\w+)`", ENGLISH))


@pytest.mark.parametrize("page", [*READMES, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in links(text):
        if "://" not in target:
            file = (ROOT / page).parent / target
            assert file.exists(), f"{page} links to {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", outside_code(file.read_text(encoding="utf-8")), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def winners(text):
    [table] = [table for table in tables(text) if "(results/" in table[1][0]]
    return table[1:]


def ours(file, section, metric):
    """The cell of every row that we ran, by name; the test's metrics have the same name as validation's only in `valid`."""
    part = re.search(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    heading, *rows = tables(part[1])[0]
    column, source = heading.index(metric), heading.index("source") if "source" in heading else None
    return {row[0]: row[column] for row in rows if source is None or row[source].startswith("ours")}


def metrics_of_the_index():
    """The metric that each board is tested by, from the index of results; by page and board."""
    [table] = [table for table in tables((ROOT / "results/README.md").read_text(encoding="utf-8")) if table[0][0] == "page"]
    return {(re.search(r"\((.*)\)", row[0])[1], row[1]): row[2] for row in table[1:]}


def best(cells):
    return max(cells, key=lambda name: float(cells[name].split()[0])) if cells else "none"


@pytest.mark.parametrize("row", winners(ENGLISH), ids=lambda row: f"{row[0].split(']')[0][1:]}: {row[1]}")
def test_the_winners_are_those_of_the_pages(row):
    link, section, metric, winner, value, diffusion, its_value = row
    cells = ours(ROOT / re.search(r"\((.*)\)", link)[1], section, metric)
    of_diffusion = {name: cell for name, cell in cells.items() if DIFFUSION.match(name)}
    expected = [best(cells), cells[best(cells)], best(of_diffusion), of_diffusion.get(best(of_diffusion), "none")]
    assert [winner, value, diffusion, its_value] == expected, f"the page now says: {' | '.join(expected)}"


def test_every_board_is_quoted_by_the_metric_that_it_is_tested_by():
    quoted = {(re.search(r"\(results/(.*)\)", row[0])[1], row[1]): row[2] for row in winners(ENGLISH)}
    assert quoted == metrics_of_the_index()
