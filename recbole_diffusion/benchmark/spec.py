"""Benchmark specifications: which rows a results page has. They are YAML files under ``properties/benchmark/``."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_diffusion.property_files import names_in, properties_dir, read_yaml
from recbole_diffusion.registry import MODELS, closest, stock_models
from recbole_diffusion.settings import SettingsError

_ROW_KEYS = {"row", "model", "dataset", "seeds", "baseline", "settings", "tune"}
_SPEC_KEYS = {"title", "metrics", "seeds", "about", "notes", "rows", "published", "simple", "ranks"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a page: one model with one kind of settings on one data set.

    Attributes:
        name: of the row, unique on the page.
        model, dataset: as for ``recbole-diffusion run``.
        seeds: of the runs.
        settings: what differs from the model's defaults.
        tune: candidates by setting. The combination that is best on validation with the first seed is run with all seeds.
    """

    name: str
    model: str
    dataset: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    tune: dict[str, list[Any]]

    def trials(self) -> Iterator[dict[str, Any]]:
        """Settings of every combination of the candidates."""
        for values in itertools.product(*self.tune.values()):
            yield self.settings | dict(zip(self.tune, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Spec:
    """A page: its rows, and published figures to stand beside them.

    Attributes:
        name: of the file, and of the page ``results/<name>.md``.
        title, about: heading and introduction.
        metrics: columns by data set, such as ``recall@20``.
        notes: text by data set.
        rows: in the page's order.
        published: by data set, mappings of ``row``, ``source`` and metrics.
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
    rows = [_row(row, content.get("seeds", [1]), str(file)) for row in content["rows"]]
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


def baselines() -> list[str]:
    """Names of the models that have settings and candidates under ``properties/benchmark/baselines``."""
    return names_in("benchmark/baselines")


def read_baseline(model: str) -> dict[str, dict[str, Any]]:
    """``settings`` of a baseline, and ``tune``, its candidates.

    Raises:
        SettingsError: none for this model.
    """
    if model not in baselines():
        known = ", ".join(baselines())
        raise SettingsError(f"no baseline settings for {model!r}{closest(model, baselines())}; known: {known}")
    file = properties_dir() / "benchmark" / "baselines" / f"{model}.yaml"
    content = read_yaml(file)
    _check_keys(content, {"settings", "tune"}, {"settings", "tune"}, str(file))
    return content


def _row(content: dict[str, Any], seeds: list[int], file: str) -> Row:
    """``baseline: True`` takes the model's baseline settings and candidates; the row's own come on top of the settings, and
    in place of the candidates."""
    _check_keys(content, _ROW_KEYS, {"row", "model", "dataset"}, f"{file}: row {content.get('row')!r}")
    model, known = content["model"], [*MODELS, *stock_models()]
    if model not in known:
        raise SettingsError(f"{file}: unknown model {model!r}{closest(model, known)}")
    base = read_baseline(content["model"]) if content.get("baseline") else {"settings": {}, "tune": {}}
    return Row(
        name=content["row"],
        model=content["model"],
        dataset=content["dataset"],
        seeds=tuple(content.get("seeds", seeds)),
        settings=base["settings"] | (content.get("settings") or {}),
        tune=content["tune"] if "tune" in content else base["tune"],
    )


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
