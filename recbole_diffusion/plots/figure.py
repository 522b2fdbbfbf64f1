"""Empty figures and picture files; the one module that imports matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_diffusion.settings import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")


def new_figure(title: str, rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 4.0) -> tuple[Figure, Any]:
    """An empty figure and its axes, an array ``[rows, columns]``.

    Args:
        title: says model, data and settings.
        rows, columns: of axes.
        width, height: inches.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot, which looks for a screen
    except ImportError as error:
        raise SettingsError("pictures need matplotlib: pip install 'recbole_diffusion[plot]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    return figure, axes


def check_file(file: str | Path) -> Path:
    """The path of a picture that can be written; makes its folder.

    Raises:
        SettingsError: another ending than .png or .svg, or a folder that cannot be made.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise SettingsError(f"picture {str(file)!r}: must end in {' or '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"picture {str(file)!r}: {error.strerror}") from error
    return path


def save(figure: Figure, file: str | Path, mark: str = "") -> None:
    """Writes a figure as PNG or SVG, by the file's ending.

    Args:
        figure: what to write.
        file: where to.
        mark: text that the file is to hold as its description.

    Raises:
        SettingsError: another ending, or a file that cannot be written.
    """
    import matplotlib

    path = check_file(file)
    # No date and no random ids: the same picture is the same file.
    metadata = ({"Description": mark} if mark else {}) | ({"Date": None} if path.suffix == ".svg" else {})
    try:
        with matplotlib.rc_context({"svg.hashsalt": "recbole_diffusion"}):
            figure.savefig(path, dpi=150, metadata=metadata)
    except OSError as error:
        raise SettingsError(f"picture {str(file)!r}: {error.strerror or error}") from error
