"""What a measurement found, with all that is needed to read and to repeat it: as JSON, and as a table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field
from rich import box
from rich.console import Console
from rich.table import Table

from bench.report.plot import Chart

Progress = Callable[[str, float], None]
"""How a measurement tells what it does, and the share of all that is done (0 to 1)."""

_PACKAGES = ("hsmitm", "mitmproxy", "python-pkcs11", "cryptography", "uvloop", "msgspec")


class Host(Struct, frozen=True):
    """Where it ran."""

    system: str
    machine: str
    cores: int
    python: str
    packages: dict[str, str]

    @classmethod
    def here(cls) -> Host:
        """This machine, and what is installed on it."""
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        cores = len(os.sched_getaffinity(0))
        return cls(platform.platform(), platform.machine(), cores, platform.python_version(), versions)


class Report(Struct, kw_only=True):
    """A result. `figures` are the main ones, flat; `detail` is everything else, `samples` among it.

    `rows` are a table of their own, each with the same columns; `notes` say what was not measured and why. `charts` are
    what `--plot` draws.
    """

    name: str
    began: str
    seconds: float
    seed: int
    configuration: dict[str, Any]
    figures: dict[str, float]
    errors: list[str]
    detail: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, str | float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    host: Host = field(default_factory=Host.here)
    command: list[str] = field(default_factory=lambda: ["hsmitm", *sys.argv[1:]])

    @property
    def caption(self) -> str:
        """What a chart says of the run: the command with its files' names alone, the host, the date."""
        words = [Path(word).name if "/" in word else word for word in self.command]
        host = f"{self.host.cores} cores, {self.host.machine}, Python {self.host.python}"
        return f"{' '.join(words)}\n{host}, {self.began}"

    def write(self, path: Path) -> None:
        """The whole result as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def show(self) -> None:
        """The rows and the figures on the terminal, the notes, and the first errors."""
        console = Console(highlight=False)
        table = Table("figure", "value", title=f"{self.name}, {self.seconds:.0f} s, seed {self.seed}",
                      title_justify="left", box=box.SIMPLE_HEAD)  # fmt: skip
        for name, value in self.figures.items():
            table.add_row(name, _number(value))
        if self.rows:
            console.print(self._rows())
        console.print(table)
        for note in self.notes:
            console.print(note, style="yellow", markup=False)
        for error in self.errors[:5]:
            console.print(error, style="red", markup=False)
        if len(self.errors) > 5:
            console.print(f"... and {len(self.errors) - 5} more errors", style="red")

    def _rows(self) -> Table:
        # Not a character wider than it must be: eleven columns fit the 80 of a log.
        table = Table(box=box.SIMPLE_HEAD, padding=0)
        for name, value in self.rows[0].items():
            text = isinstance(value, str)
            table.add_column(name, justify="left" if text else "right", no_wrap=text)
        for row in self.rows:
            table.add_row(*(value if isinstance(value, str) else _number(value) for value in row.values()))
        return table


def _number(value: float) -> str:
    """Three digits that mean something, and no exponent where there are more in front of the point."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
