"""The index of the results, and the page of mean ranks over boards."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_diffusion.benchmark.boards import Page, rankings
from recbole_diffusion.benchmark.html import NAME as HTML
from recbole_diffusion.benchmark.markdown import listed, spread, table
from recbole_diffusion.benchmark.pictures import FOLDER, pictures_of, ranks_picture
from recbole_diffusion.benchmark.rerun import command


def index_text(pages: Sequence[Page], ranked: bool) -> str:
    """``results/README.md``: the best row of each board.

    Args:
        pages: all.
        ranked: whether there is a page of mean ranks.
    """
    lines = [
        "# Results",
        "",
        "Made by `recbole-diffusion report` from `results/runs/`; do not edit. The best row of ours on every board, its test",
        "metric (mean over seeds +- half the 95 % interval), and the rows that cannot be told apart from it (see the pages);",
        "`?`: not tested, since the runs are from before each user's values were kept.",
        "",
    ]
    rows, commands = [], []
    for page in pages:
        for board in page.boards:
            order, tests = board.best_first(), board.significance()
            if not order:
                continue
            best = order[0]
            letter = tests.letters.get(best, "")
            level = [name for name in order[1:] if {*letter} & {*tests.letters.get(name, "")}]
            simple = next((name for name in order if name in board.simple), "")
            value = spread(board.entries[best].scores(board.metric))
            of_simple = f"{simple}, {spread(board.entries[simple].scores(board.metric))}" if simple else ""
            alike = listed(level) or "none" if letter else "?"
            untested = [name for name in order if letter and name not in tests.letters]
            alike += f"; not tested: {listed(untested)}" if untested else ""
            rows.append([f"[{page.name}]({page.name}.md)", board.heading, board.metric, best, value, letter, alike, of_simple])
            if again := command(board.entries[best].records[0]):
                commands.append(f"# {page.name}, {board.heading}: {best}\n{again}")
    lines += table(["page", "board", "metric", "best", "value", "letter", "level with", "best simple row"], rows)
    lines += ["", "[Mean ranks over boards](ranks.md)."] if ranked else []
    lines += ["", f"`recbole-diffusion report` also writes `{HTML}` here: all boards to sort, filter and hover over."]
    for page in pages:
        first = next((name for name in pictures_of(page) if name.endswith("cost")), None)
        lines += ["", f"![{page.title}: accuracy against cost]({FOLDER}/{first}.svg)"] if first else []
    lines += ["", "Each of these, run again (every row has its command on its page):", ""]
    return "\n".join([*lines, "```bash", *"\n".join(commands).splitlines(), "```"]) + "\n"


def ranks_text(pages: Sequence[Page]) -> str:
    """The page of mean ranks; empty where no boards share rows."""
    found = rankings(pages)
    if not found:
        return ""
    lines = [
        "# Mean ranks",
        "",
        "Made by `recbole-diffusion report`; do not edit. Rank 1 is the best test metric on a board; rows that are on",
        "all boards of a group are ranked. Rows whose mean ranks differ by less than the critical difference (Nemenyi, 5 %)",
        "cannot be told apart by their ranks.",
    ]
    for name, (boards, ranks) in sorted(found.items()):
        lines += ["", f"## {name}", "", f"Boards: {', '.join(f'{board.heading} ({board.metric})' for board in boards)}."]
        said = f"Critical difference: {ranks.critical_difference:.2f}."
        if ranks.critical_difference > len(ranks.means) - 1:
            said += f" No two ranks can be that far apart: by ranks on {len(boards)} boards, no rows can be told apart."
        elif ranks.friedman_p is not None:
            said += f" Friedman's test that all are alike: p = {ranks.friedman_p:.3f}."
        lines += [said, ""]
        rows = sorted(ranks.means.items(), key=lambda row: row[1])
        lines += table(["row", "mean rank"], [[row, f"{mean:.2f}"] for row, mean in rows])
        lines += ["", f"![{name}: mean ranks]({FOLDER}/{ranks_picture(name)}.svg)"]
    return "\n".join(lines) + "\n"
