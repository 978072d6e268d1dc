"""The house as its code has it: modules, what they import, where they stand. Read with `ast`; nothing is executed.

`House` is made of a mapping of paths to sources, so that a test can show it a house with a fault in it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

TOP = ("hsm", "addons", "proxy", "bench")
ROOT = Path(__file__).parents[1]


class House:
    """The product's sources."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files` are sources by path, such as "hsm/wire/frames.py"."""
        self.files = dict(files)

    @classmethod
    def standing(cls) -> Self:
        """The one that this checkout holds."""
        found = (path for top in TOP for path in (ROOT / top).rglob("*.py"))
        return cls({str(path.relative_to(ROOT)): path.read_text() for path in sorted(found)})

    @cached_property
    def modules(self) -> dict[str, ast.Module]:
        """Each module's tree, by its dotted name; a package goes by its own."""
        return {_dotted(path): ast.parse(text) for path, text in self.files.items()}

    @cached_property
    def packages(self) -> dict[str, ast.Module]:
        """Those that are packages: rooms, and the houses around them."""
        return {_dotted(path): ast.parse(text) for path, text in self.files.items() if path.endswith("/__init__.py")}

    @cached_property
    def imports(self) -> dict[str, list[str]]:
        """What each module imports, wherever in it the statement stands: our own modules, and others by their names."""
        return {name: list(self._imported(tree)) for name, tree in self.modules.items()}

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    yield inner if inner in self.modules else module

    @cached_property
    def arrows(self) -> list[tuple[str, str]]:
        """Each import of one of our modules by another."""
        return [(one, other) for one, all_ in self.imports.items() for other in all_ if other in self.modules]

    def children(self, package: str) -> set[str]:
        """The files and packages that stand in `package`, by their last names."""
        depth = package.count(".") + 1
        inside = (name.split(".") for name in self.modules if name.startswith(f"{package}."))
        return {parts[depth] for parts in inside}


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room(module: str) -> str:
    """Where a module stands: "hsm.wire" for hsm.wire.frames, "hsm" for a word such as hsm.errors."""
    return module.rpartition(".")[0] or module


def circles(arrows: list[tuple[str, str]]) -> list[list[str]]:
    """Those who reach each other (Tarjan's strongly connected components), each circle once, sorted."""
    out: dict[str, list[str]] = {}
    for one, other in arrows:
        out.setdefault(one, []).append(other)
        out.setdefault(other, [])
    reached = {one: _reachable(one, out) for one in out}
    found = {tuple(sorted(other for other in reached[one] if one in reached[other])) for one in out}
    return sorted([*circle] for circle in found if circle)


def _reachable(start: str, out: Mapping[str, list[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(out[start])
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += out[one]
    return seen


def named_in_map(docstring: str) -> set[str]:
    """The names that a package's docstring lists: each begins its line, two spaces or more before what it holds.

    The formatter takes away an indentation that all lines share, so it says nothing.
    """
    return set(re.findall(r"^ *([a-z0-9_]+) {2,}\S", docstring, re.MULTILINE))
