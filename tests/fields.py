"""Every field of nested settings, by its path: so that a test can change each, and notices when there is a new one."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import Struct, structs


def paths(kind: type[Struct], whole: tuple[type, ...] = ()) -> Iterator[str]:
    """The paths of all fields ("hsm.members.sessions"), through lists, dicts and what may be absent; tables of the
    kinds `whole` are not entered."""
    for field in structs.fields(kind):
        table = _table(field.type)
        if table is None or table in whole:
            yield field.name
        else:
            yield from (f"{field.name}.{rest}" for rest in paths(table, whole))


def _table(kind: Any) -> type[Struct] | None:
    """The kind of table in this type of a field, if there is one."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind
    nested = (Annotated, Union, types.UnionType, list, dict)
    inner = get_args(kind) if get_origin(kind) in nested else ()
    return next((found for one in inner if (found := _table(one)) is not None), None)


def replaced[Value](value: Value, path: str, new: Any) -> Value:
    """`value` with `new` at `path`: of a list the first entry changes, of a dict the first value. `new` may be a
    function of what stands there."""
    changed: Any = value
    if isinstance(changed, list):
        changed = [replaced(changed[0], path, new), *changed[1:]]
    elif not isinstance(changed, Struct):
        first = next(iter(changed))
        changed = changed | {first: replaced(changed[first], path, new)}
    else:
        name, _, rest = path.partition(".")
        before = getattr(changed, name)
        after = replaced(before, rest, new) if rest else new(before) if callable(new) else new
        changed = structs.replace(changed, **{name: after})
    found: Value = changed
    return found
