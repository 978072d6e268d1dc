"""hsmitm.toml as bytes, as a struct, and what is wrong in it, in words: the field first, and what would be right."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from hsm import reading
from hsm.errors import MisconfiguredError


def read(path: Path) -> bytes:
    """The file. Raises MisconfiguredError."""
    try:
        return reading.contents(path)
    except FileNotFoundError:
        raise MisconfiguredError(f"there is no configuration at {path}; make one with 'hsmitm init'") from None
    except OSError as error:
        raise MisconfiguredError(f"cannot read {path}: {error.strerror}") from error


def decoded[T: Struct](raw: bytes, root: type[T], name: str) -> T:
    """The file `name` as a `root`. Raises MisconfiguredError: the file, the field, what is wrong, what would be
    right."""
    try:
        return msgspec.toml.decode(raw, type=root)
    except msgspec.ValidationError as error:
        raise MisconfiguredError(f"{name}: {explained(str(error), root, tomllib.loads(raw.decode()))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{name} is not TOML: {error}") from None


def explained(text: str, root: type[Struct], tables: dict[str, Any]) -> str:
    """msgspec's message about `tables`, which should be of the type `root`, with the field first, and the known fields
    where one is unknown."""
    message, _, where = text.partition(" - at `$")
    place = where.rstrip("`").lstrip(".")
    spoken = _spoken(place, root, tables)
    if unknown := re.search(r"unknown field `(.+)`", message):
        known = _fields(root, place)
        close = difflib.get_close_matches(unknown[1], known, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
        return f"{_joined(spoken, unknown[1])}: unknown field; {hint}"
    if missing := re.search(r"missing required field `(.+)`", message):
        return f"{_joined(spoken, missing[1])}: this field is required"
    if "regex" in message:
        message = _described(root, place)
    if "`date" in message:
        message += "; write a day as 2027-03-31, without quotes"
    if "enum value" in message:
        message += f"; one of {', '.join(_choices(root, place))}"
    return f"{spoken}: {message[:1].lower()}{message[1:]}" if place else message


def _joined(spoken: str, field: str) -> str:
    """A field of the table at `spoken`; a rule is parted from its fields by a colon."""
    return f"{spoken}{': ' if spoken.endswith((']', "'")) and "'" in spoken else '.' if spoken else ''}{field}"


def _choices(root: type[Struct], place: str) -> list[str]:
    """What may stand at `place`, the name of a field with a few choices."""
    return next((list(get_args(kind)) for kind in _kinds(root, place) if get_origin(kind) is Literal), [])


def _described(root: type[Struct], place: str) -> str:
    """What a field with a pattern says of it in words."""
    return next(kind.description for kind in _kinds(root, place) if isinstance(kind, Meta) and kind.description)


def _kinds(root: type[Struct], place: str) -> list[Any]:
    """The type of the field at `place`, and all that it is made of."""
    table, _, name = re.sub(r"\[[^]]*\]", "", place).rpartition(".")
    kinds = [next(f.type for f in msgspec.structs.fields(_table(root, table)) if f.encode_name == name)]
    for kind in kinds:
        kinds += get_args(kind)
    return kinds


def _fields(root: type[Struct], place: str) -> list[str]:
    """The fields of the table at `place` ("hsm.members[0]")."""
    return [f.encode_name for f in msgspec.structs.fields(_table(root, place))]


def _table(root: type[Struct], place: str) -> type[Struct]:
    found = root
    for part in filter(None, re.sub(r"\[[^]]*\]", "", place).split(".")):
        kind = next(f.type for f in msgspec.structs.fields(found) if f.encode_name == part)
        inner = _struct_in(kind)
        assert inner is not None, f"{place}: there is no table in {kind}"
        found = inner
    return found


def _struct_in(kind: Any) -> type[Struct] | None:
    """The first kind of table that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind
    return next((found for one in get_args(kind) if (found := _struct_in(one)) is not None), None)


def _spoken(place: str, root: type[Struct], tables: dict[str, Any]) -> str:
    """`place` as the operator finds it: with the name or number of a table that msgspec leaves out ("profiles[...]"),
    and a rule's name beside its number."""
    if "[...]" in place:
        above, _, rest = place.partition("[...]")
        kind, value = _at(root, tables, above)
        place = f"{above}{_faulty(kind, value)}{rest}"
    if rule := re.fullmatch(r"(policy\.rules\[(\d+)\])(?:\.(.+))?", place):
        written = tables["policy"]["rules"][int(rule[2])]
        name = written.get("name", "") if isinstance(written, dict) else ""
        return ": ".join(filter(None, (f"{rule[1]} '{name}'" if name else rule[1], rule[3])))
    return place


def _at(root: type[Struct], tables: dict[str, Any], place: str) -> tuple[Any, Any]:
    """The type and the value of what stands at `place`."""
    above, _, name = place.rpartition(".")
    kind = next(f.type for f in msgspec.structs.fields(_table(root, above)) if f.encode_name == name)
    value: Any = tables
    for part, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", place):
        value = value[part or int(number)]
    return kind, value


def _faulty(kind: Any, value: Any) -> str:
    """The first entry of a table or list that has something wrong in it, as it is written behind the table's name."""
    for name, one in value.items() if isinstance(value, dict) else enumerate(value):
        entry = {name: one} if isinstance(value, dict) else [one]
        try:
            msgspec.convert(entry, type=kind)
        except msgspec.ValidationError:
            return f".{name}" if isinstance(value, dict) else f"[{name}]"
    return "[...]"
