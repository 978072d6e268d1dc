"""hsmitm.toml as text: a member's table added or removed, every other byte kept; and the file replaced as a whole.

Called where an operator adds or removes a member. What the fields mean it must not know: `config` reads the result.
tomlkit writes the values but does not edit the file. To it, what stands behind a table belongs to that table: a member
that goes takes the next section's heading along, and one that is added where the tables stand apart is lost. So
tomllib, with which msgspec reads the file too, says where each statement ends; statements are put in or left out.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomlkit
from msgspec import Struct

from hsm.errors import MisconfiguredError


class _Statement(Struct, frozen=True):
    """A header, a setting, a comment or a blank line, with its line end."""

    text: str
    member: int | None
    """The index of the member that a header or a setting belongs to; None for a comment, which is nobody's."""

    @property
    def blank(self) -> bool:
        return not self.text.strip()

    @property
    def comment(self) -> bool:
        return self.text.lstrip().startswith("#")

    @property
    def header(self) -> bool:
        return self.text.lstrip().startswith("[")


def with_member(text: str, member: Mapping[str, object]) -> str:
    """`text` with a [[hsm.members]] table behind the last one: the fields of `member` in their order.

    `member` has a "name". A mapping becomes an inline table; a field that is None is left out. Fields are not checked:
    that is for `config`. Raises MisconfiguredError where the name is taken or the text cannot be edited.
    """
    statements, names = _parsed(text)
    if member["name"] in names:
        raise MisconfiguredError(f"a member '{member['name']}' exists already; known are {_listed(names)}")
    last = max(index for index, statement in enumerate(statements) if statement.member is not None)
    place = _behind_comments(statements, last + 1)
    before = "".join(statement.text for statement in statements[:place])
    table = ["", "[[hsm.members]]", *(_setting(name, value) for name, value in member.items() if value is not None)]
    if not before.endswith("\n"):
        table.insert(0, "")
    line_end = "\r\n" if "\r\n" in text else "\n"
    return before + "".join(f"{line}{line_end}" for line in table) + text[len(before) :]


def without_member(text: str, name: str) -> str:
    """`text` without the table of the member `name`, its sub-tables, and the blank line in front of them.

    Lines that are comments stay, those between its settings too. Raises MisconfiguredError where there is no such
    member, where it is the last one, or where the text cannot be edited.
    """
    statements, names = _parsed(text)
    if name not in names:
        raise MisconfiguredError(f"there is no member '{name}'; known are {_listed(names)}")
    if len(names) == 1:
        raise MisconfiguredError(f"'{name}' is the last member, and there must be one; add another before removing it")
    member = names.index(name)
    first = next(index for index, statement in enumerate(statements) if statement.member == member)
    end = next((i for i in range(first, len(statements)) if statements[i].member != member), len(statements))
    leaves_comments = _behind_comments(statements, end) > end
    gap = first - 1 if first and statements[first - 1].blank and not leaves_comments else None
    return "".join(one.text for index, one in enumerate(statements) if one.member != member and index != gap)


def read(path: Path) -> str:
    """The text of `path`, line ends as they are (`Path.read_text` changes them). Raises MisconfiguredError."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise MisconfiguredError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MisconfiguredError(f"{path.name} is not TOML: {error}") from None


def write(path: Path, text: str) -> None:
    """Replace the file `path`, or the one that it links to, in one step: a reader sees the old text or the new one.

    Its owner, mode and access list stay. Raises MisconfiguredError with the reason, and with the old text in place.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        _replace(real, text.encode())
    except OSError as error:
        raise MisconfiguredError(f"cannot write {path}: {error.strerror}") from error
    except UnicodeEncodeError as error:
        wrong = ascii(text[error.start : error.end])
        raise MisconfiguredError(f"cannot write {path}: {wrong} is no character; write UTF-8 only") from None


def _replace(path: Path, content: bytes) -> None:
    old = path.stat()
    if not stat.S_ISREG(old.st_mode):
        raise MisconfiguredError(f"cannot write {path}: it is not a regular file")
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, old.st_uid, old.st_gid)
            shutil.copystat(path, unfinished)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink()
        raise


def _parsed(text: str) -> tuple[list[_Statement], list[object]]:
    """The statements of `text`, and its members' names in order. Raises MisconfiguredError."""
    try:
        hsm: Any = tomllib.loads(text).get("hsm")
    except tomllib.TOMLDecodeError as error:
        raise MisconfiguredError(f"the configuration is not TOML: {error}") from None
    members = hsm.get("members") if isinstance(hsm, dict) else None
    if not members:
        raise MisconfiguredError("hsm.members: there is no member; make a configuration with 'hsmitm init'")
    statements = list(_statements(text))
    if not isinstance(members, list) or len(members) != len({one.member for one in statements} - {None}):
        raise MisconfiguredError(
            "hsm.members: can be edited only where each member is a table that begins with [[hsm.members]]; write it so"
        )
    return statements, [member.get("name") for member in members]


def _statements(text: str) -> Iterator[_Statement]:
    """Cut `text`, which is TOML. A sub-table belongs to the last member before it, wherever it stands."""
    count, current = 0, None
    for statement, value in _cut(text):
        one = _Statement(statement, None)
        if one.header:
            table = value.get("hsm", {}).get("members")
            count += table == [{}]
            current = None if table is None else count - 1
        yield one if one.blank or one.comment else _Statement(statement, current)


def _cut(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement and what it says on its own. One that goes on in the next line is no TOML before its end."""
    statement = ""
    for line in io.StringIO(text, newline="\n"):
        statement += line
        with suppress(tomllib.TOMLDecodeError):
            yield statement, tomllib.loads(statement)
            statement = ""


def _behind_comments(statements: list[_Statement], index: int) -> int:
    """`index`, or behind the comments there, unless they lead up to a header: then they speak of that table."""
    end = index
    while end < len(statements) and statements[end].comment:
        end += 1
    return index if end < len(statements) and statements[end].header else end


def _setting(name: str, value: object) -> str:
    return f"{tomlkit.key(name).as_string()} = {_value(value)}"


def _value(value: object) -> str:
    """As the template writes it: tomlkit puts no spaces into an inline table's braces."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_setting(name, one) for name, one in value.items())} }}" if value else "{}"
    return tomlkit.item(value).as_string()


def _listed(names: list[object]) -> str:
    return ", ".join(name for name in names if isinstance(name, str))
