"""Benchmark specifications: which rows a results page has. They are YAML files under ``properties/benchmark/``."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_diffusion.property_files import names_in, properties_dir, read_yaml
from recbole_diffusion.registry import MODELS, closest, stock_models
from recbole_diffusion.settings import SettingsError

_ROW_KEYS = {"row", "model", "dataset", "block", "seeds", "space", "settings", "tune", "search"}
_SPEC_KEYS = {"title", "metrics", "seeds", "about", "notes", "search", "rows", "published", "simple", "ranks"}
_RANGE_KEYS = {"low", "high", "log", "step"}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a search may cost.

    Attributes:
        trials: settings that are tried.
        minutes: of training and validation, all trials together; None sets no limit.
    """

    trials: int
    minutes: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a page: one model with one kind of settings on one data set.

    Attributes:
        name: of the row, unique on the page.
        model, dataset: as for ``recbole-diffusion run``.
        block: what sets it apart from the data set's other rows, such as another input; rows are compared within a block.
        seeds: of the runs.
        settings: what differs from the model's defaults.
        tune: candidates by setting: a list, or a range, ``{low, high}`` with ``log`` or ``step``. The combination that is best
            on validation with the first seed is run with all seeds.
        search: None tries every combination of the lists; a budget has :mod:`search` choose the combinations.
    """

    name: str
    model: str
    dataset: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    tune: dict[str, Any]
    search: Budget | None
    block: str = ""

    @property
    def board(self) -> str:
        """The heading of its board."""
        return f"{self.dataset}, {self.block}" if self.block else self.dataset

    def trials(self) -> Iterator[dict[str, Any]]:
        """Settings of every combination of the candidates, which are lists."""
        for values in itertools.product(*self.tune.values()):
            yield self.settings | dict(zip(self.tune, values, strict=True))

    def examples(self) -> Iterator[dict[str, Any]]:
        """Settings to check before anything runs: of a grid all, of a search each candidate and each end of a range."""
        if self.search is None:
            yield from self.trials()
            return
        for key, candidates in self.tune.items():
            values = candidates if isinstance(candidates, list) else (candidates["low"], candidates["high"])
            yield from (self.settings | {key: value} for value in values)

    def combinations(self) -> list[dict[str, Any]] | None:
        """All combinations of the candidates, if they are no more than a search may try; None otherwise."""
        assert self.search is not None
        if not all(isinstance(candidates, list) for candidates in self.tune.values()):
            return None
        if math.prod(map(len, self.tune.values())) > self.search.trials:
            return None
        return [dict(zip(self.tune, values, strict=True)) for values in itertools.product(*self.tune.values())]


@dataclasses.dataclass(frozen=True)
class Spec:
    """A page: its rows, and published figures to stand beside them.

    Attributes:
        name: of the file, and of the page ``results/<name>.md``.
        title, about: heading and introduction.
        metrics: columns by data set, such as ``recall@20``.
        notes: text by board: the data set, or ``data set, block``.
        rows: in the page's order.
        published: by board, mappings of ``row``, ``source`` and metrics.
        simple: names of the simple rows, the best of which all others are tested against; none: those of simple models.
        ranks: name of the boards that this page's boards are ranked together with (``results/ranks.md``); None: not ranked.
    """

    name: str
    title: str
    about: str
    metrics: dict[str, list[str]]
    notes: dict[str, str]
    rows: list[Row]
    published: dict[str, list[dict[str, Any]]]
    simple: list[str]
    ranks: str | None


def specs() -> list[str]:
    """Names of the specifications that the package brings."""
    return names_in("benchmark")


def read_spec(name: str) -> Spec:
    """Reads a specification by name or by path.

    Raises:
        SettingsError: no such specification, or a malformed one; names the file, the row and what is allowed.
    """
    brought = properties_dir() / "benchmark" / f"{name}.yaml"
    file = brought if brought.is_file() else Path(name)
    if file is not brought and file.stem in specs():
        raise SettingsError(f"{file}: {file.stem!r} is a benchmark that the package brings; choose another file name")
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        raise SettingsError(f"unknown benchmark {name!r}{closest(name, specs())}; known: {', '.join(specs())}")
    content = read_yaml(file)
    _check_keys(content, _SPEC_KEYS, {"title", "metrics", "rows"}, str(file))
    rows = [_row(row, content, str(file)) for row in content["rows"]]
    names = [row.name for row in rows]
    if repeated := sorted({row for row in names if names.count(row) > 1}):
        raise SettingsError(f"{file}: rows {repeated} occur more than once; names must differ")
    simple = content.get("simple", [])
    if unknown := sorted({*simple} - {*names}):
        raise SettingsError(f"{file}: simple: no rows {unknown}; rows are {', '.join(names)}")
    return Spec(
        name=file.stem,
        title=content["title"],
        about=content.get("about", ""),
        metrics=content["metrics"],
        notes=content.get("notes", {}),
        rows=rows,
        published=content.get("published", {}),
        simple=simple,
        ranks=content.get("ranks"),
    )


def spaces() -> list[str]:
    """Names of the models that have settings and candidates under ``properties/benchmark/spaces``."""
    return names_in("benchmark/spaces")


def read_space(model: str) -> dict[str, dict[str, Any]]:
    """A model's ``settings`` on our pages, where they are not its defaults, and ``tune``, its candidates.

    Raises:
        SettingsError: none for this model.
    """
    if model not in spaces():
        known = ", ".join(spaces())
        raise SettingsError(f"no search space for {model!r}{closest(model, spaces())}; known: {known}")
    file = properties_dir() / "benchmark" / "spaces" / f"{model}.yaml"
    content = read_yaml(file)
    _check_keys(content, {"settings", "tune"}, {"settings", "tune"}, str(file))
    return content


def _row(content: dict[str, Any], spec: dict[str, Any], file: str) -> Row:
    """``space: True`` takes the settings and candidates of ``spaces/``; the row's own come on top of the settings, and
    in place of the candidates. ``seeds`` and ``search`` are the specification's unless the row has its own."""
    where = f"{file}: row {content.get('row')!r}"
    _check_keys(content, _ROW_KEYS, {"row", "model", "dataset"}, where)
    model, known = content["model"], [*MODELS, *stock_models()]
    if model not in known:
        raise SettingsError(f"{file}: unknown model {model!r}{closest(model, known)}")
    base = read_space(content["model"]) if content.get("space") else {"settings": {}, "tune": {}}
    tune = (content["tune"] if "tune" in content else base["tune"]) or {}
    search = _budget({"search": spec.get("search")} | content, where) if tune else None
    for key, candidates in tune.items():
        _check_candidates(candidates, search is not None, f"{where}: tune: {key}")
    return Row(
        name=content["row"],
        model=content["model"],
        dataset=content["dataset"],
        seeds=tuple(content.get("seeds", spec.get("seeds", [1]))),
        settings=base["settings"] | (content.get("settings") or {}),
        tune=tune,
        search=search,
        block=str(content.get("block", "")),
    )


def _budget(content: dict[str, Any], where: str) -> Budget | None:
    given = content["search"]
    if given is None:
        return None
    if not isinstance(given, dict):
        raise SettingsError(f"{where}: search = {given!r}: must be a mapping with trials, and minutes or not")
    _check_keys(given, {"trials", "minutes"}, {"trials"}, f"{where}: search")
    trials, minutes = given["trials"], given.get("minutes")
    if not is_number(trials, int) or trials < 1:
        raise SettingsError(f"{where}: search: trials = {trials!r}: must be an integer >= 1")
    if minutes is not None and (not is_number(minutes) or not minutes > 0):
        raise SettingsError(f"{where}: search: minutes = {minutes!r}: must be a number > 0")
    return Budget(trials, minutes)


def _check_candidates(given: Any, searched: bool, where: str) -> None:
    if isinstance(given, list) and given:
        return
    if not isinstance(given, dict):
        raise SettingsError(f"{where} = {given!r}: must be a list of candidates, or a range such as {{low: 0.1, high: 0.9}}")
    _check_keys(given, _RANGE_KEYS, {"low", "high"}, where)
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    if not (is_number(low) and is_number(high) and low < high):
        raise SettingsError(f"{where}: low = {low!r}, high = {high!r}: must be numbers, low < high")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise SettingsError(f"{where}: log = {log!r}: must be True or False; True needs low > 0, and no step")
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and (not is_number(step, int if whole else (int, float)) or step <= 0):
        raise SettingsError(f"{where}: step = {step!r}: must be a number > 0, and an integer where low and high are")
    if not searched:
        raise SettingsError(f"{where} is a range, which has no grid: add search: {{trials: 20}}, or list candidates")


def is_number(value: Any, kind: Any = (int, float)) -> bool:
    """Whether ``value`` is a finite number of this kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _check_keys(content: dict[str, Any], allowed: set[str], needed: set[str], where: str) -> None:
    for key in content:
        if key not in allowed:
            known = ", ".join(sorted(allowed))
            raise SettingsError(f"{where}: unknown key {key!r}{closest(key, allowed)}; known: {known}")
    if missing := sorted(needed - set(content)):
        raise SettingsError(f"{where}: no {', '.join(missing)}")


def slug(text: str) -> str:
    """``text`` as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
