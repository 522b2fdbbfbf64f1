"""The pages of results, made from records: ``recbole-diffusion report``. Nothing on them is typed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmark.boards import Board, Entry, Page, Record, Significance, read_pages, training_s, variants
from recbole_diffusion.benchmark.index import index_text, ranks_text
from recbole_diffusion.benchmark.markdown import listed, mean_cell, p_cell, section, spread, table
from recbole_diffusion.benchmark.pictures import FOLDER, digest, pictures_of
from recbole_diffusion.benchmark.record import describe_evaluation
from recbole_diffusion.benchmark.rerun import command
from recbole_diffusion.benchmark.statistics import LEVEL

_HEAD = """\
Made by `recbole-diffusion report` from `results/runs/`; do not edit. Values are test metrics: the mean over seeds +- half its
95 % t-interval, where there are several. `valid` is the metric that chose the epoch, and the settings of a tuned row. Recall@k
divides by the number of a user's test items, NDCG@k by the best list of k items. Rows that share a `letter` cannot be told
apart; `p` is against the row that is named. Both are of two-sided t-tests of the mean difference, paired over users, with users
and seeds both as samples; what a row of one seed would do with another is not in them. Holm's adjustment is for all pairs
(letters) or for all rows (p), so the two may differ; error level 5 %. Published rows are quoted, not run."""

_CURVE_AT = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200)


def write_pages(results: Path) -> list[str]:
    """Writes all pages of a results folder; returns their names."""
    made = make_pages(results)
    for name, text in made.items():
        (results / name).write_text(text, encoding="utf-8")
    return list(made)


def check_pages(results: Path) -> list[str]:
    """Names of the pages that are not what the records say, those without records among them."""
    made = make_pages(results)
    there = {file.name: file.read_text(encoding="utf-8") for file in results.glob("*.md")}
    return sorted(name for name in {*made, *there} if made.get(name) != there.get(name))


def make_pages(results: Path) -> dict[str, str]:
    """Markdown by file name.

    Raises:
        SettingsError: no records, or a file of users' values that is gone or is not the one that its record names.
    """
    pages = read_pages(results)
    made = {f"{page.name}.md": page_text(page) for page in pages}
    if ranks := ranks_text(pages):
        made["ranks.md"] = ranks
    if pages:
        made["README.md"] = index_text(pages, bool(ranks))
    return made


def page_text(page: Page) -> str:
    """The Markdown of a page."""
    lines = [f"# {page.title}", "", *_HEAD.splitlines(), *page.about.splitlines()]
    pictures = pictures_of(page)
    for board in page.boards:
        lines += ["", f"## {board.heading}", "", *_board(board)]
        links = [f"![{name}]({FOLDER}/{name}.svg)" for name, (of_board, _) in pictures.items() if of_board is board]
        lines += section("Pictures", links)
    # A changed record changes the page, whatever was changed.
    lines += ["", f"Made from {len(page.records)} records, sha256 `{digest(page.records)}`."]
    return "\n".join(lines) + "\n"


def _board(board: Board) -> list[str]:
    tests = board.significance()
    lines = [*_data(board), *_budget(board), "", *_accuracy(board, tests), "", *_verdict(board, tests)]
    lines += ["", *board.note.splitlines()] if board.note else []
    for masking in board.maskings:
        tests = board.significance(masking)
        about = f"The same checkpoints, with the items that a user has had {masking}; nothing was chosen on it."
        lines += ["", f"### {masking.capitalize()}", "", about, "", *_accuracy(board, tests, masking)]
        lines += ["", *_verdict(board, tests, masking)]
    lines += section("Cost and diversity", _cost(board))
    lines += section("Other ways to score", _also(board))
    lines += section("Settings", _settings(board))
    lines += section("Rerun", _rerun(board))
    lines += section("Tuning", _tuning(board))
    lines += section("Validation by epoch", _curves(board))
    return lines + section("Diagnostics", _diagnostics(board))


def _data(board: Board) -> list[str]:
    """What the rows were computed on, and how they were evaluated; rows of different kinds cannot be compared."""
    kinds: dict[tuple[str, str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for name, entry in board.entries.items():
        for record in entry.records:
            data = record["data"]
            counts = " / ".join(f"{count:,}" for count in data["rows"].values())
            sizes = f"{data['users']:,} users, {data['items']:,} items, {counts} rows"
            kinds[record["protocol"], sizes, describe_evaluation(record["settings"])][name].append(record)
    most = max(kinds.values(), key=len, default={})
    alone = sum(map(len, kinds.values())) == len(board.entries)  # no row is of two kinds
    paragraphs = []
    for (protocol, sizes, how), of_rows in sorted(kinds.items(), key=lambda kind: kind[1] is most):
        prints = list(dict.fromkeys(record["data"]["fingerprint"] for records in of_rows.values() for record in records))
        seeds = any(len({record["data"]["fingerprint"] for record in records}) > 1 for records in of_rows.values())
        data = f"data {', '.join(f'`{name}`' for name in prints)}{' (a split for each seed)' if seeds else ''}"
        rows = "All other rows" if of_rows is most and alone else listed(list(of_rows))
        whose = f"{rows}: protocol" if len(kinds) > 1 else "Protocol"
        paragraphs += ["", f"{whose} `{protocol}`, {data}: {sizes}. Evaluation: {how}."]
    return paragraphs[1:]


def _budget(board: Board) -> list[str]:
    """How much was tried for each tuned row, and what was cut."""
    parts = []
    for name, entry in board.entries.items():
        if entry.trials:
            ends = [trial["end"] for trial in entry.trials]
            cut = [f"{ends.count(end)} {end}" for end in ("pruned", "cut", "failed") if end in ends]
            minutes = sum(trial["seconds"] for trial in entry.trials) / 60
            parts.append(f"{name} {len(ends)} trials in {minutes:.1f} minutes{''.join(f', {what}' for what in cut)}")
    return ["", f"Tuned on validation with one seed: {'; '.join(parts)}."] if parts else []


def _accuracy(board: Board, tests: Significance, masking: str = "") -> list[str]:
    against = list(tests.p_values)
    letter = ["letter"] if tests.letters else []
    heading = ["row", "source", "seeds", *letter, *board.metrics, "valid", *(f"p, {name}" for name in against), "run"]
    rows = []
    for published in board.published if not masking else []:
        quoted = ["" if published.get(metric) is None else str(published[metric]) for metric in board.metrics]
        rows.append([published["row"], published["source"], "", *("" for _ in letter), *quoted, "", *("" for _ in against), ""])
    for name, entry in board.entries.items():
        selects = entry.records[0]["settings"]["valid_metric"].lower()
        if masking and not entry.scores(board.metric, masking):
            continue
        cells = [name, "ours" if all(record.get("dirty") is False for record in entry.records) else "ours, changed tree"]
        cells += [str(len(entry.records)), *(tests.letters.get(name, "") for _ in letter)]
        cells += [spread(entry.scores(metric, masking)) for metric in board.metrics]
        cells += [f"{spread([record['valid'][selects] for record in entry.records])} ({selects})"]
        cells += [p_cell(tests.p_values[other].get(name)) for other in against]
        rows.append([*cells, f"`{entry.records[0]['settings_hash']}`"])
    return table(heading, rows)


def _verdict(board: Board, tests: Significance, masking: str = "") -> list[str]:
    """Who wins, and whether that may be luck."""
    order = board.best_first(masking)
    if not order:
        return []
    best, scores = order[0], {name: board.entries[name].scores(board.metric, masking) for name in order}
    said = f"**{best}** has the highest {board.metric}, {spread(scores[best])}."
    if tests.why_not:
        return [f"{said} Not tested: {tests.why_not}."]
    untested = [name for name in order if name not in tests.letters]
    if best in tests.letters:
        level = [name for name in order[1:] if {*tests.letters[best]} & {*tests.letters.get(name, "")}]
        ahead_of = "every other tested row" if untested else "every other row"
        said += f" It cannot be told apart from {listed(level)}." if level else f" It is significantly ahead of {ahead_of}."
    for reference, p_values in tests.p_values.items():
        mean = statistics.mean(scores[reference])
        ahead = [name for name, p in p_values.items() if p < LEVEL and statistics.mean(scores[name]) > mean]
        behind = [name for name, p in p_values.items() if p < LEVEL and statistics.mean(scores[name]) < mean]
        kind = (
            "the best simple row" if reference == next(iter(tests.p_values)) and reference in board.simple else "the reference"
        )
        said += f" Significantly better than {reference}, {kind}: {listed(ahead) or 'none'}. Worse: {listed(behind) or 'none'}."
    if untested:
        said += f" Not tested, without values of each user: {listed(untested)}."
    return [said]


def _cost(board: Board) -> list[str]:
    """What a row costs and what its lists are like; a column needs a row that has it."""
    k = board.metric.partition("@")[2]
    columns: dict[str, Callable[[Entry], str]] = {
        f"coverage@{k}": lambda entry: mean_cell(_beyond(entry, f"itemcoverage@{k}"), "{:.3f}"),
        f"Gini@{k}": lambda entry: mean_cell(_beyond(entry, f"giniindex@{k}"), "{:.3f}"),
        f"popularity@{k}": lambda entry: mean_cell(_beyond(entry, f"averagepopularity@{k}"), "{:.0f}"),
        f"cold share@{k}": lambda entry: mean_cell(_beyond(entry, f"colditemshare@{k}"), "{:.3f}"),
        "best epoch": lambda entry: mean_cell(_epochs(entry), "{:.0f}"),
        "training minutes": lambda entry: mean_cell([training_s(record) / 60 for record in entry.records], "{:.1f}"),
        "test s": lambda entry: mean_cell([record["eval_s"]["test"] for record in entry.records], "{:.1f}"),
        "scoring ms a user": lambda entry: mean_cell(_each(entry, "scoring_ms"), "{:.3f}"),
        "network calls a user": lambda entry: mean_cell(_each(entry, "network_calls"), "{:.0f}"),
        "parameters": lambda entry: mean_cell(_each(entry, "parameters"), "{:,.0f}"),
        "peak MiB": lambda entry: mean_cell(_each(entry, "peak_memory_mib"), "{:.0f}"),
        "trials": lambda entry: str(len(entry.trials) or ""),
    }
    rows = [[name, *(cell(entry) for cell in columns.values())] for name, entry in board.entries.items()]
    used = [0, *(i for i in range(1, len(columns) + 1) if any(row[i] for row in rows))]
    heading = ["row", *columns]
    lines = table([heading[i] for i in used], [[row[i] for i in used] for row in rows])
    about = (
        "Popularity: mean number of training interactions of the items in the lists. Cold share: items that no training row has"
    )
    about += " as its target. Means over seeds."
    return [*lines, "", about]


def _also(board: Board) -> list[str]:
    """The rows that were also tested under other settings of scoring, from the same checkpoints."""
    metrics, k = board.metrics[:2], board.metric.partition("@")[2]
    rows = []
    for name, entry in board.entries.items():
        runs = [variants(record) for record in entry.records]
        if min(map(len, runs)) < 2:
            continue
        own = [record["test"][board.metric] for record in entry.records]
        for number, way in enumerate(zip(*runs, strict=True)):
            scored = ", ".join(f"{key} = {way[0]['settings'][key]}" for key in entry.scoring_keys)
            values = [record["test"][board.metric] for record in way]
            differences = [value - before for value, before in zip(values, own, strict=True)]
            of_way = Entry(name, list(way), [])
            rows.append(
                [
                    name, scored, *(spread(of_way.scores(metric)) for metric in metrics),
                    spread(differences) if number else "", mean_cell(_beyond(of_way, f"itemcoverage@{k}"), "{:.3f}"),
                    mean_cell(_each(of_way, "network_calls"), "{:.0f}"), mean_cell(_each(of_way, "scoring_ms"), "{:.3f}"),
                ]
            )  # fmt: skip
    if not rows:
        return []
    heading = ["row", "scored with", *metrics, f"difference of {board.metric}", f"coverage@{k}", "network calls a user"]
    about = "The same checkpoints; a row's first line is what the tables above have. Nothing was chosen on this."
    return [about, "", *table([*heading, "scoring ms a user"], rows)]


def _beyond(entry: Entry, name: str) -> list[Any]:
    return [record.get("beyond_accuracy", record["test"]).get(name) for record in entry.records]


def _each(entry: Entry, key: str) -> list[Any]:
    return [record.get(key) for record in entry.records]


def _epochs(entry: Entry) -> list[Any]:
    """None of models that train in one pass."""
    return [record["best_epoch"] + 1 if len(record.get("curve", [])) > 1 else None for record in entry.records]


def _settings(board: Board) -> list[str]:
    lines = []
    for name, entry in board.entries.items():
        kept = entry.records[0]["settings"]
        used = [f"{key} = {kept[key]}" for key in entry.keys if key in kept]  # a record may be older than a setting
        lines.append(f"- {name}: {entry.model}, {'; '.join(used) if used else 'the defaults'}")
    return lines


def _rerun(board: Board) -> list[str]:
    """A command for each row whose records have one."""
    lines = [f"# {name}\n{again}" for name, entry in board.entries.items() if (again := command(entry.records[0]))]
    return ["```bash", *"\n".join(lines).splitlines(), "```"] if lines else []


def _tuning(board: Board) -> list[str]:
    rows = []
    for name, entry in board.entries.items():
        for trial in entry.trials:
            tried = ", ".join(f"{key} = {value}" for key, value in trial["tried"].items())
            valid = "" if trial["valid"] is None else f"{trial['valid']:.4f}"
            rows.append([name, tried, valid, str(trial["epochs"]), "" if trial["end"] == "complete" else trial["end"]])
    return table(["row", "tried", "valid", "epochs", "ended"], rows) if rows else []


def _curves(board: Board) -> list[str]:
    rows = []
    for name, entry in board.entries.items():
        curves = [record.get("curve", []) for record in entry.records]
        if max(map(len, curves)) < 2:
            continue
        scores = [{entry["epoch"] + 1: entry["valid_score"] for entry in curve if "valid_score" in entry} for curve in curves]
        rows.append([name, *(mean_cell([of_seed.get(epoch) for of_seed in scores], "{:.4f}") for epoch in _CURVE_AT)])
    used = [i for i in range(1, len(_CURVE_AT) + 1) if any(row[i] for row in rows)]
    heading = [f"epoch {epoch}" for epoch in _CURVE_AT]
    return table(["row", *(heading[i - 1] for i in used)], [[row[0], *(row[i] for i in used)] for row in rows]) if used else []


def _diagnostics(board: Board) -> list[str]:
    entries = {name: entry for name, entry in board.entries.items() if all("diagnostics" in record for record in entry.records)}
    found = {name: [record["diagnostics"] for record in entry.records] for name, entry in entries.items()}
    keys = list(dict.fromkeys(key for of_row in found.values() for key in of_row[0]))
    rows = [[name, *(spread([seed.get(key) for seed in of_row]) for key in keys)] for name, of_row in found.items()]
    return table(["row", *keys], rows) if keys else []
