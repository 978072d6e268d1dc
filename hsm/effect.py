"""When a changed setting takes effect, said in its type: `run: Annotated[RunDirectory, AtStart("[run]")]`.

So what a reload does is read from the fields, and none can be forgotten: `marked` refuses a field that does not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, structs


class AtStart(Struct, frozen=True):
    """Read once: a change waits for a new start. `where` is what the configuration calls it."""

    where: str


class AtReload(Struct, frozen=True):
    """Taken over while hsmitm runs. `where` is what the configuration calls it."""

    where: str


class EachAtStart(Struct, frozen=True):
    """A mapping of what is read once by others: its keys are what the configuration calls them."""


class SaidElsewhere(Struct, frozen=True):
    """It becomes part of other settings, which say it."""


Effect = AtStart | AtReload | EachAtStart | SaidElsewhere


def marked(part: Struct) -> Iterator[tuple[str, Effect, Any]]:
    """Name, effect and value of each field. One that does not say is a table, or a list of them, whose fields say.

    Raises TypeError for a field of which nothing says it.
    """
    for field in structs.fields(part):
        value = getattr(part, field.name)
        effect = effect_of(field.type)
        if effect is not None:
            yield field.name, effect, value
            continue
        for table in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(table, Struct):
                raise TypeError(f"{type(part).__name__}.{field.name} does not say when a change of it takes effect")
            yield from marked(table)


def effect_of(kind: Any) -> Effect | None:
    """What the type of a field says."""
    found = [one for one in getattr(kind, "__metadata__", ()) if isinstance(one, Effect)]
    return found[0] if found else None
