"""Charts of a result, as SVG or PNG: matplotlib, set up so that they are read without seeing colour.

Each series differs from the others by its marker and line, each group of bars by its hatching, and every axis has its
unit. matplotlib is a development dependency: only `--plot` needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from hsm.errors import MisconfiguredError

_MARKERS, _LINES, _HATCHES = "osD^vX", ("-", "--", ":", "-."), ("", "//", "..", "xx", "\\\\", "++")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, told apart with the common kinds of colour blindness; light and dark alternate for print."""


class Series(Struct, frozen=True):
    """One line, or one kind of bar. `x` are numbers for lines, names for bars."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float]


class Chart(Struct, frozen=True):
    """One panel. `x_log` has 1, 2, 4, 8 at equal distances. `level` is a target: a horizontal line with its name."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: Literal["line", "bar"] = "line"
    x_log: bool = False
    level: tuple[str, float] | None = None
    notes: Sequence[str] = field(default_factory=list)


def check(path: Path) -> None:
    """Raise MisconfiguredError, before anything is measured, where no chart can be written to `path`."""
    if path.suffix not in (".svg", ".png"):
        raise MisconfiguredError(f"--plot {path}: charts are written as .svg or .png")
    if not path.absolute().parent.is_dir():
        raise MisconfiguredError(f"--plot {path}: there is no directory {path.absolute().parent}")
    try:
        import matplotlib  # noqa: F401, PLC0415  # the command line says at once whether it is there
    except ImportError:
        raise MisconfiguredError("--plot needs matplotlib: pip install matplotlib") from None


def save(charts: Sequence[Chart], path: Path, caption: str) -> None:
    """Write `charts` side by side to `path`. `caption` names the run: command, host, date."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # not needed to measure

    figure = Figure(figsize=(5.2 * len(charts), 4.0), layout="constrained")
    for chart, axes in zip(charts, figure.subplots(1, len(charts), squeeze=False)[0], strict=True):
        _draw(chart, axes)
    figure.supxlabel(caption, fontsize=7)
    # Without a date, text as text: the same result gives the same file, and a reader can search it.
    from matplotlib import rc_context  # noqa: PLC0415

    with rc_context({"svg.hashsalt": "hsmitm", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _draw(chart: Chart, axes: Any) -> None:
    if chart.kind == "line":
        _lines(chart, axes)
    else:
        _bars(chart, axes)
    if chart.level is not None:
        name, value = chart.level
        axes.axhline(value, color="black", linewidth=1, linestyle=(0, (1, 3)), label=name)
    axes.set_title(chart.title, fontsize=10)
    axes.set_xlabel("\n".join([chart.x_label, *chart.notes]), fontsize=8)
    axes.set_ylabel(chart.y_label, fontsize=8)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y", linewidth=0.4)
    axes.legend(fontsize=7)


def _lines(chart: Chart, axes: Any) -> None:
    for number, one in enumerate(chart.series):
        axes.plot(
            one.x, one.y, label=one.name, color=_COLOURS[number % 6], marker=_MARKERS[number % 6],
            linestyle=_LINES[number % 4], markersize=5,
        )  # fmt: skip
    if chart.x_log:
        axes.set_xscale("log", base=2)
        places = sorted({x for one in chart.series for x in one.x})
        axes.set_xticks(places, [f"{place:g}" for place in places])


def _bars(chart: Chart, axes: Any) -> None:
    names = list(dict.fromkeys(name for one in chart.series for name in one.x))
    width = 0.8 / len(chart.series)
    for number, one in enumerate(chart.series):
        places = [names.index(name) + (number + 0.5) * width - 0.4 for name in one.x]
        drawn = axes.bar(
            places, one.y, width, label=one.name, color=_COLOURS[number % 6], hatch=_HATCHES[number % 6],
            edgecolor="black", linewidth=0.6,
        )  # fmt: skip
        axes.bar_label(drawn, fmt=_label, fontsize=7)
    axes.set_xticks(range(len(names)), [str(name) for name in names], fontsize=8)


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
