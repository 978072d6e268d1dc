"""What the template, README.md, SECURITY.md and deploy/ say of hsmitm.toml is what hsmitm does."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from addons.forward.leaf_cache import RENEW_AT
from hsm.certificates.settings import MAX_VALIDITY
from hsm.codes import Kind
from hsm.secrets.settings import PinSource
from hsm.signer.settings import SignerSettings
from hsm.wire.member import Selector
from proxy.commands.init.place import Place
from proxy.commands.init.text import text
from proxy.commands.init.wanted import Wanted
from proxy.config.file import Config, parse
from proxy.config.operation import LogSection, ProxySection, StatusSection
from proxy.config.section import bounds as owned
from tests.proxy.config.made_keys import made_keys
from tests.proxy.config.statements import (
    Statement,
    bounds,
    default,
    field,
    fits,
    free,
    inline,
    mentions,
    settings,
    tables,
)

_ROOT = Path(__file__).parents[3]
_README = (_ROOT / "README.md").read_text()
_BLOCKS = re.findall(r"(?ms)^```toml\n(.*?)^```", _README)
_PROSE = {
    "README.md": re.sub(r"(?ms)^```.*?^```", "", _README),
    "SECURITY.md": (_ROOT / "SECURITY.md").read_text(),
} | {f"deploy/{one.name}": one.read_text() for one in sorted((_ROOT / "deploy").iterdir()) if one.is_file()}
_NUMBERS = {"two": 2, "sixteen": 16}


def _template() -> str:
    """What `hsmitm init` writes, with nothing chosen."""
    wanted = Wanted(
        directory=Path(), module=None, token=None, listen=ProxySection().listen, status_listen=StatusSection().listen
    )
    place = Place(
        module="/lib/vendor.so",
        selector=Selector("hsmitm"),
        environment={},
        pin="",
        pin_source=PinSource(file="pin"),
        member="softhsm1",
    )
    return text(wanted, place, made_keys("hsmitm"))


def _stated() -> list[Statement]:
    blocks = [one for number, text in enumerate(_BLOCKS, 1) for one in settings(f"README.md, block {number}", text)]
    return [*settings("template", _template()), *blocks]


def _faults(check: Callable[[Statement], str | None]) -> list[str]:
    """What `check` finds at each setting of the template and of README's blocks."""
    return [f"{one.where}: {one.table}.{one.key}: {fault}" for one in map(free, _stated()) if (fault := check(one))]


def _same(one: Statement) -> str | None:
    found = field(one.table, one.key)
    if found is None:
        return "there is no such setting"
    if not fits(one.value, found):
        return f"{one.value!r} is refused"
    holds = default(found)
    if marked := re.search(r"default: (\S+)", one.comment):
        said = tomllib.loads(f"it = {marked[1]}")["it"]
        return None if said == holds else f"the default is said to be {said!r}, and is {holds!r}"
    if holds in (None, "", [], (), {}) or _is_empty(holds) or one.value == holds:
        return None
    return f"is {one.value!r}, and the default is {holds!r}; where it is meant, say '# default: ...' beside it"


def _is_empty(holds: object) -> bool:
    """Whether it is a table in which nothing stands."""
    return isinstance(holds, msgspec.Struct) and not any(msgspec.structs.astuple(holds))


def _bounded(one: Statement) -> str | None:
    found = field(one.table, one.key)
    assert found is not None
    limits = bounds(found)
    for low, high in re.findall(r"(\d+) to (\d+)(?! s)", one.comment):
        if (limits.ge, limits.le) != (int(low), int(high)):
            return f"said to be {low} to {high}, and is {limits.ge} to {limits.le}"
    for most in map(int, re.findall(r"at most (\d+) ASCII", one.comment)):
        if not fits("a" * most, found) or fits("a" * (most + 1), found):
            return f"said to have at most {most} characters, which is not so"
    return None


def test_every_setting_that_is_shown_exists_with_its_default() -> None:
    """A setting that the template or README shows, commented out or not, is one, and what stands there is its default
    unless it says that it is not."""
    assert _faults(_same) == []


def test_bounds_beside_a_setting_are_its_bounds() -> None:
    """Where a comment says "0 to 500", or how long a name may be, just that is taken."""
    assert _faults(_bounded) == []
    assert any(re.search(r"\d to \d", one.comment) for one in _stated()), "no comment says a bound: read them anew"


@pytest.mark.parametrize("table", sorted(tables()))
def test_the_template_mentions_every_setting(table: str) -> None:
    """An operator finds each setting in the file that init writes, in its table, with what it does."""
    parts = mentions(_template())
    text = next(parts[one] for one in _with_those_above(table) if one in parts)  # a pin is described with its member
    missing = [name for name in _leaves(table) if not re.search(rf'(?<![\w]){name}"? = ', text)]
    assert missing == []


def _with_those_above(table: str) -> Iterator[str]:
    while table:
        yield table
        table = table.rpartition(".")[0]
    yield ""


def _leaves(table: str) -> Iterator[str]:
    """The fields of a table that have no header of their own in the template, nor one of a table in them."""
    headed = {above for header in mentions(_template()) for above in _with_those_above(header)}
    for one in msgspec.structs.fields(tables()[table]):
        if f"{table}.{one.encode_name}".lstrip(".") not in headed:
            yield one.encode_name


@pytest.mark.parametrize("document", sorted(_PROSE))
def test_settings_in_prose_exist(document: str) -> None:
    """`tickets = false` in a sentence is a setting of some table, which may have that value."""
    known = [found for kind in tables().values() for found in msgspec.structs.fields(kind)]
    wrong = [
        f"{one.key} = {one.value!r}"
        for one in inline(document, _PROSE[document])
        if not any(found.encode_name == one.key and fits(one.value, found) for found in known)
    ]
    assert wrong == []


def test_settings_that_are_named_with_their_table_exist() -> None:
    """`proxy.upstream_ca` in a comment or a sentence is a setting."""
    texts = _PROSE | {"template": _template()}
    tops = "|".join(name for name in tables() if name and "." not in name)
    wrong = [
        f"{document}: {table}.{key}"
        for document, text in texts.items()
        for table, key in re.findall(rf"(?<![\w./\[-])({tops})\.([a-z_]+)\b(?![./-])", text)
        if field(table, key) is None
    ]
    assert wrong == []


def _parsed(text: str) -> Config:
    return parse(text.encode(), Path("/etc/hsmitm.toml"))


def test_the_template_without_comment_signs_is_a_configuration() -> None:
    """Who removes the comment signs of inbound inspection, or of every setting, has a configuration that is right."""
    config = _parsed(re.sub(r"(?m)^# (?=\[|(?:[a-z0-9_]+|\"[^\"]+\") = )", "", _template()))
    assert [one.names for listener in config.file.inbound for one in listener.sites]
    assert config.file.run.users


def test_the_blocks_of_readme_are_configurations() -> None:
    """README's first block is a configuration, also with the rules or the inbound block behind it; the group's is one
    of [hsm], and that of return codes belongs to its member."""
    first, rules, inbound, group, codes = _BLOCKS
    assert _parsed(first).file.forward
    assert [one.name for one in _parsed(first + rules).file.policy.rules] == ["banks", "nas"]
    assert _parsed(first + inbound).file.inbound
    second = first.replace('"hsm1"', '"hsm2"').partition("[forward")[0]
    both = _parsed(f"{group.partition('[[')[0]}{first}{second}")
    assert (both.file.hsm.high_availability, len(both.members())) == (True, 2)
    alone, others, rest = first.partition("[forward")
    assert _parsed(alone + codes + others + rest).members()[0].codes == {0x80000383: Kind.BUSY}


def _sentence(document: str, pattern: str) -> tuple[str, ...]:
    text = _template() if document == "template" else _PROSE[document]
    found = re.search(pattern, re.sub(r"\s*\n#? ?", " ", text))
    assert found, f"{document} no longer says this: look where the number stands now"
    return found.groups()


def test_numbers_in_sentences_are_true() -> None:
    """How many members a group may have, how long a leaf is valid, what is logged: as the documents say."""
    limits = owned(SignerSettings, "members")
    least, most = _sentence("README.md", r"(\w+) to (\w+) members that hold the same keys")
    assert (2, limits.max_length) == (_NUMBERS[least.lower()], _NUMBERS[most])
    assert _sentence("template", r"renewed in the cache after (\w+ \w+) of them") == ("four fifths",)
    assert RENEW_AT == 4 / 5
    assert _sentence("SECURITY.md", r"valid for at most (\d+) days") == (str(MAX_VALIDITY.days),)
    assert _sentence("SECURITY.md", r"at log level (\w+), the default") == (LogSection().level,)
    for unit in ("deploy/hsmitm-proxy.service", "deploy/hsmitm-signer.service"):
        assert _sentence(unit, r"RestartPreventExitStatus=(\d+)") == (str(os.EX_CONFIG),)
    (patience,) = _sentence("deploy/hsmitm-proxy.service", r"TimeoutStopSec=(\d+)")
    assert int(patience) > ProxySection().grace_s + 3, "systemd kills workers before the supervisor would"
