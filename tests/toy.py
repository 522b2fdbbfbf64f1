"""Small data sets, written as RecBole's atomic files."""

from pathlib import Path

COLUMNS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
QUIET = {"show_progress": False, "state": "ERROR"}


def write_inter(folder: Path, name: str, rows, part: str = "") -> None:
    """Writes ``(user, item, time)`` rows as ``folder/name/name.[part.]inter``."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows)]
    file = folder / name / ".".join(filter(None, [name, part, "inter"]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def checkerboard(folder: Path, size: int = 40) -> dict:
    """User u likes the items of its own parity. The diagonal is the test part, the field beside it the validation part.

    A model that has understood ranks the diagonal above everything else that the user has not seen, all of which is of the
    other parity.
    """
    parts = {"train": [], "valid": [], "test": []}
    for user in range(size):
        for item in range(user % 2, size, 2):
            part = {user: "test", (user + 2) % size: "valid"}.get(item, "train")
            parts[part].append((user, item, item))
    for part, rows in parts.items():
        write_inter(folder, "checkerboard", rows, part)
    return COLUMNS | {"data_path": str(folder), "benchmark_filename": list(parts)}


def two_circles(folder: Path, users: int = 200, size: int = 12, length: int = 8) -> dict:
    """Two circles of items; a user walks around one of them, so the next item is known from the last."""
    rows = []
    for user in range(users):
        circle, start = user % 2, (user // 2) % size
        rows += [(user, circle * size + (start + step) % size, step) for step in range(length)]
    write_inter(folder, "circles", rows)
    return COLUMNS | {"data_path": str(folder)}


def in_this_process(arguments, orders, log, environment, folder):
    """In the place of ``benchmark.attended.start``: a run that needs no seconds to start, one at a time."""
    from recbole_diffusion.benchmark.search import StoppedEarly, watched
    from recbole_diffusion.benchmark.workers import STOPPED
    from recbole_diffusion.cli import _parser, _told

    options, settings = _parser().parse_known_args(["run", *arguments])
    try:
        with watched(orders["trial"], Path(orders["stopped"])):
            return int(options.run(options, settings, ["run", *arguments]) or 0)
    except StoppedEarly:
        return STOPPED
    except Exception as error:
        return _told(error)[1]
