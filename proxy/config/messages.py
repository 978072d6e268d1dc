"""hsmitm.toml as bytes, as a struct, and what is wrong in it, in words: the field first, and what would be right."""

from __future__ import annotations

import difflib
import re
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
        raise MisconfiguredError(f"{name}: {explained(str(error), root)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{name} is not TOML: {error}") from None


def explained(text: str, root: type[Struct]) -> str:
    """msgspec's message about a table of the type `root`, with the field first, and the known fields where one is
    unknown."""
    message, _, where = text.partition(" - at `$")
    place = where.rstrip("`").lstrip(".")
    if unknown := re.search(r"unknown field `(.+)`", message):
        known = _fields(root, place)
        close = difflib.get_close_matches(unknown[1], known, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
        return f"{f'{place}.' if place else ''}{unknown[1]}: unknown field; {hint}"
    if missing := re.search(r"missing required field `(.+)`", message):
        return f"{f'{place}.' if place else ''}{missing[1]}: this field is required"
    if "regex" in message:
        message = _described(root, place)
    if "enum value" in message:
        message += f"; one of {', '.join(_choices(root, place))}"
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message


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
    kind: Any = root
    for part in filter(None, re.sub(r"\[[^]]*\]", "", place).split(".")):
        kind = next(f.type for f in msgspec.structs.fields(kind) if f.encode_name == part)
        while not (isinstance(kind, type) and issubclass(kind, Struct)):
            kind = next(
                (a for a in getattr(kind, "__args__", ()) if a is not type(None)), getattr(kind, "__origin__", None)
            )
    found: type[Struct] = kind
    return found
