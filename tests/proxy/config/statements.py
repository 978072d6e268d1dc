"""What a document says of hsmitm.toml's options: settings, also those behind a comment sign, and the words beside them.

A document is the template, or a part of README.md, SECURITY.md, deploy/: TOML, or prose with `key = value` in it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from proxy.config.file import File

_HEADER = re.compile(r"(?:# )?\[{1,2}([a-z_.]+)\]{1,2}\s*(?:#.*)?")
_SETTING = re.compile(r'(?:# )?(?:[a-z0-9_]+|"[^"]+") = .+')
_INLINE = re.compile(r'(?<![\w.-])([a-z0-9_]{2,}) = ("[^"]*"|\[[^]]*\]|\{[^}]*\}|true|false|\d+(?:\.\d+)?)')


class Statement(NamedTuple):
    """A setting of a table ("hsm.members"; "" where prose does not say whose), with the comment beside it."""

    where: str
    table: str
    key: str
    value: Any
    comment: str


def settings(document: str, text: str) -> Iterator[Statement]:
    """The settings of a TOML text, those behind "# " too. A comment goes with the setting that follows it."""
    table, said = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            table, said = _kind_of(header[1]), ""
        elif _SETTING.fullmatch(line):
            setting, comment = _cut(line.removeprefix("# "))
            ((key, value),) = tomllib.loads(setting).items()
            yield Statement(f"{document}:{number}", table, key, value, f"{said} {comment}")
            said = ""
        else:
            said = f"{said} {line.removeprefix('#')}" if line.startswith("#") else ""


def _kind_of(header: str) -> str:
    """The table that a header names: [profiles.careful] is one of the tables "profiles", whose names are free."""
    above = header.rpartition(".")[0]
    found = field(*_split(above)) if above else None
    return above if found is not None and _is_free(found.type) else header


def _split(table: str) -> tuple[str, str]:
    above, _, name = table.rpartition(".")
    return above, name


def _is_free(kind: Any) -> bool:
    """Whether tables of this type have names that the operator chooses."""
    value = next((get_args(one)[1] for one in parts(kind) if get_origin(one) is dict), None)
    return isinstance(value, type) and issubclass(value, Struct)


def _cut(line: str) -> tuple[str, str]:
    """The setting of a line, and its comment. Raises TOMLDecodeError for what is neither."""
    for place in (found.start() for found in re.finditer("#", line)):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads(line[:place])
            return line[:place], line[place + 1 :]
    return line, ""


def inline(document: str, text: str) -> Iterator[Statement]:
    """Each `key = value` of a prose text, whose lines may be a program's comments."""
    for found in _INLINE.finditer(re.sub(r"\s*\n#? ?", " ", text)):
        yield Statement(document, "", found[1], tomllib.loads(found[0])[found[1]], "")


def mentions(text: str) -> dict[str, str]:
    """For each table of a TOML text all that stands between its headers and the next."""
    found: dict[str, str] = {}
    table = ""
    for line in text.splitlines():
        if header := _HEADER.fullmatch(line):
            table = _kind_of(header[1])
        found[table] = f"{found.get(table, '')}{line}\n"
    return found


def tables() -> dict[str, type[Struct]]:
    """Every table of the file by its name: "hsm", "hsm.members", "hsm.members.pin", ..."""
    return {name.lstrip("."): kind for name, kind in _within("", File)}


def _within(name: str, kind: type[Struct]) -> Iterator[tuple[str, type[Struct]]]:
    yield name, kind
    for field in msgspec.structs.fields(kind):
        of_lists = any(get_origin(part) is dict for part in parts(field.type)) and not _is_free(field.type)
        for part in () if of_lists else parts(field.type):
            if isinstance(part, type) and issubclass(part, Struct):
                yield from _within(f"{name}.{field.encode_name}", part)


def parts(kind: Any) -> Iterator[Any]:
    """A type, and all that it is made of."""
    yield kind
    for one in get_args(kind):
        yield from parts(one)


def field(table: str, key: str) -> msgspec.structs.FieldInfo | None:
    """The field `key` of a table."""
    kind = tables().get(table)
    return next((one for one in msgspec.structs.fields(kind) if one.encode_name == key), None) if kind else None


def free(one: Statement) -> Statement:
    """A statement in a table whose keys are the operator's ([hsm.members.environment]) as one of the table itself."""
    above, _, name = one.table.rpartition(".")
    return one._replace(table=above, key=name, value={one.key: one.value}) if one.table not in tables() else one


def default(found: msgspec.structs.FieldInfo) -> Any:
    """What holds without the setting; None where nothing does."""
    if found.default_factory is not msgspec.NODEFAULT:
        return found.default_factory()
    return None if found.default is msgspec.NODEFAULT else found.default


def bounds(found: msgspec.structs.FieldInfo) -> Meta:
    """Within what a field must be."""
    return next((one for one in parts(found.type) if isinstance(one, Meta)), Meta())


def fits(value: Any, found: msgspec.structs.FieldInfo) -> bool:
    """Whether the file may have this value."""
    try:
        msgspec.convert(value, type=found.type)
    except msgspec.ValidationError:
        return False
    return True
