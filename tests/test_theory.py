"""The two theory courses: the functions they name exist, their numbers come out, and both languages have the same formulas."""

import doctest
import importlib
import operator
import re
from pathlib import Path

import pytest

from recbole_diffusion.registry import MODELS

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("theory.md", "theory_zh.md"))
both_languages = pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["English", "Chinese"])


def displayed(text):
    """The displayed formulas in order."""
    return re.findall(r"^\$\$\n(.*)\n\$\$$", text, re.MULTILINE)


def inline(text):
    """What stands before each formula inside a line, the formula, and what stands after it."""
    prose = re.sub(r"^(```|\$\$).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "code", prose)
    return re.findall(r"(?<=(.))\$([^$\n]+)\$(.)", "\n" + prose, re.DOTALL)


def named(text):
    """The functions that a text links to, ``[`name`][file]``."""
    return re.findall(r"\[`([\w.]+)`\]\[(\w+)\]", text)


def files(text):
    """The links' targets, ``[file]: path``."""
    return dict(re.findall(r"^\[(\w+)\]: (\S+)$", text, re.MULTILINE))


def tables(text):
    """The rows of every table, a list of cells each, without the headings."""
    blocks = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]


def formula_table(text):
    """Number, formula and functions of each row of the table of formulas."""
    return [(number, formula, named(functions)) for number, functions, _, formula in tables(text)[-1]]


def examples(text):
    return re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@both_languages
def test_every_function_named_exists(text):
    where = files(text)
    for name, file in set(named(text)):
        path = (ROOT / "docs" / where[file]).resolve().relative_to(ROOT)
        module = importlib.import_module(".".join(path.with_suffix("").parts))
        found = operator.attrgetter(name)(module)
        assert getattr(found, "__module__", module.__name__) == module.__name__, f"{name} is not defined in {path}"
    assert set(where) == {file for _, file in named(text)}


@both_languages
def test_the_table_has_every_numbered_formula_with_its_functions(text):
    numbered = [re.fullmatch(r"(.*) \\tag\{(\d+)\}", formula) for formula in displayed(text)]
    expected = [(match[2], f"${match[1]}$") for match in numbered if match]
    rows = formula_table(text)
    assert [(number, formula) for number, formula, _ in rows] == expected
    assert [int(number) for number, _ in expected] == list(range(1, len(expected) + 1))
    assert all(functions for _, _, functions in rows)
    course = text[: text.rindex("\n## ")]
    assert {name for _, _, functions in rows for name in functions} <= set(named(course))


def test_both_languages_have_the_same_formulas_functions_and_examples():
    assert displayed(ENGLISH) == displayed(CHINESE)
    assert formula_table(ENGLISH) == formula_table(CHINESE)
    assert examples(ENGLISH) == examples(CHINESE)
    assert files(ENGLISH) == files(CHINESE)
    sections = [re.findall(r"^## (\d*)", text, re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert sections[0] == sections[1]
    for of_english, of_chinese in zip(tables(ENGLISH), tables(CHINESE), strict=True):
        assert [row[0] for row in of_english] == [row[0] for row in of_chinese]


@both_languages
def test_the_three_questions_are_answered_for_every_diffusion_model(text):
    """A model that is new in the registry needs a row in section 12 of both files."""
    rows = tables(text)[0]
    assert sorted(row[0] for row in rows) == sorted(name for name, model in MODELS.items() if model.group == "diffusion")
    assert all(len(row) == 4 and all(row) for row in rows)


@both_languages
def test_the_numbers_come_out(text):
    """The examples go on from one another, so they are one doctest."""
    test = doctest.DocTestParser().get_doctest("".join(examples(text)), {}, "theory", None, 0)
    report = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted > 30
    assert not result.failed, "".join(report)


@both_languages
def test_formulas_survive_markdown(text):
    """GitHub hands a formula to Markdown before it renders it: what Markdown would change must not be in one."""
    spans = inline(text)
    formulas = [*displayed(text), *(formula for _, formula, _ in spans)]
    assert text.count("$") == 4 * len(displayed(text)) + 2 * len(spans)
    for formula in formulas:
        assert formula == formula.strip()
        assert not re.search(r"[*<>~`&#|]|\\[^a-zA-Z]|\]\(|\\operatorname", formula), formula
        # An underscore after punctuation would begin emphasis: \bar\alpha_t, not \bar{\alpha}_t.
        assert not re.search(r"(^|[^\w])_", formula), formula
        assert formula.count("{") == formula.count("}")
    for before, formula, after in spans:
        assert before in " \n", f"{before}${formula}$: a formula begins after a space"
        assert after in " \n.,;:)，。；：、（）", f"${formula}${after}: a formula ends before a space or punctuation"
