"""hsmitm.toml edited by a program: members come and go, and the operator's own words stay as they were."""

from __future__ import annotations

import os
import re
import resource
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm.errors import MisconfiguredError
from hsm.secrets.settings import PinSource
from hsm.wire.member import Selector
from proxy.commands.init.place import Place
from proxy.commands.init.text import text
from proxy.commands.init.wanted import Wanted
from proxy.config.edit import read, with_member, without_member, write
from proxy.config.file import Config, load
from tests.proxy.config.made_keys import made_keys

_FORWARD = """
# ---- forward ----

[forward]
[forward.trust]
certificate = "trust.pem"
key = "pkcs11:object=trust"
[forward.untrust]
certificate = "untrust.pem"
key = "pkcs11:object=untrust"
"""
_TWO = """\
# the HSMs

[[hsm.members]] # upstairs
name = "m1"
module = "/lib/vendor.so"
token = "partition"
pin = { file = "pin" }

# downstairs
[[hsm.members]]
name = 'm2'
module = "/lib/vendor.so"
slot = 0
# a person types it
pin = { prompt = true }   # twice
"""
_NEW: dict[str, object] = {"name": "m9", "module": "/lib/new.so", "token": "new", "pin": {"file": "new-pin"}}
_NEW_TEXT = """
[[hsm.members]]
name = "m9"
module = "/lib/new.so"
token = "new"
pin = { file = "new-pin" }
"""


def _initialised(environment: dict[str, str] | None = None) -> str:
    wanted = Wanted(directory=Path(), module=None, token=None, listen="127.0.0.1:8080", status_listen="127.0.0.1:9797")
    place = Place(
        module="/lib/vendor.so",
        selector=Selector("hsmitm"),
        environment=environment or {},
        pin="",
        pin_source=PinSource(file="pin"),
        member="softhsm1",
    )
    return text(wanted, place, made_keys("hsmitm"))


def _names(text: str) -> list[str]:
    return [member["name"] for member in tomllib.loads(text)["hsm"]["members"]]


def _lost(old: str, new: str) -> str:
    """The lines of `old` that `new` lacks, where nothing else differs."""
    left = iter(new.splitlines(keepends=True))
    expected, lost = next(left, None), []
    for line in old.splitlines(keepends=True):
        if line == expected:
            expected = next(left, None)
        else:
            lost.append(line)
    assert expected is None, f"{expected!r} is not of the old text"
    return "".join(lost)


def _comments(text: str) -> list[str]:
    """The lines that are comments, but for the one inside a value."""
    return [line for line in text.split("\n") if line.lstrip().startswith("#") and "of A" not in line]


@pytest.fixture
def parsed(tmp_path: Path) -> Callable[[str], Config]:
    """Reads a text as hsmitm reads its configuration; several members hold the same keys."""

    def parsing(text: str) -> Config:
        path = tmp_path / "parsed.toml"
        if len(_names(text)) > 1:
            lines = re.sub(r"(?m)^high_availability.*\n", "", text).splitlines(keepends=True)
            at = next((i + 1 for i, line in enumerate(lines) if line.strip() == "[hsm]"), None)
            group = ["high_availability = true\n"] if at else ["[hsm]\n", "high_availability = true\n"]
            lines[at or 0 : at or 0] = group
            text = "".join(lines)
        path.write_bytes(text.encode())
        return load(path)

    return parsing


# adding


@pytest.mark.parametrize("environment", [None, {"SOFTHSM2_CONF": "/srv/softhsm2.conf"}])
def test_a_member_is_added_to_what_init_wrote(
    parsed: Callable[[str], Config], environment: dict[str, str] | None
) -> None:
    """A second member comes behind the first, before the next section's heading, and no line of the file is touched."""
    old = _initialised(environment)
    new = with_member(old, _NEW)
    behind = "\n# ---- forward inspection"
    assert new == old.replace(behind, _NEW_TEXT + behind)
    config = parsed(new)
    assert [member.name for member in config.members()] == ["softhsm1", "m9"]
    assert config.members()[0] == parsed(old).members()[0]
    assert config.file.forward == parsed(old).file.forward


def test_all_fields_arrive_in_their_order(parsed: Callable[[str], Config]) -> None:
    """What is given for a member is what hsmitm reads, and stands in the file in the order in which it was given."""
    member: dict[str, object] = {
        "name": "m9",
        "module": "/lib/ä b.so",
        "serial": "08\\15",
        "pin": {"command": ["pass", 'hsm "1"']},
        "sessions": 12,
        "environment": {"CONF": "/etc/hsm.conf", "odd name": "a\nb"},
    }
    text = with_member(_TWO + _FORWARD, member)
    (added,) = parsed(text).members()[2:]
    assert (added.name, added.module, added.sessions) == ("m9", "/lib/ä b.so", 12)
    assert added.selector == Selector(serial="08\\15")
    assert added.pin == PinSource(command=["pass", 'hsm "1"'])
    assert added.environment == {"CONF": "/etc/hsm.conf", "odd name": "a\nb"}
    assert list(tomllib.loads(text)["hsm"]["members"][2]) == list(member)


def test_a_field_that_was_not_given_is_not_written() -> None:
    """Of token, serial and slot, those that were not given leave no trace in the file."""
    assert with_member(_TWO, _NEW | {"serial": None, "slot": None}) == _TWO + _NEW_TEXT


def test_a_missing_last_line_end_does_no_harm(parsed: Callable[[str], Config]) -> None:
    """A file whose last line is a member's and has no line end gets one before the new member."""
    members_last = (_FORWARD + _TWO).removesuffix("\n")
    text = with_member(members_last, _NEW)
    assert text == members_last + "\n" + _NEW_TEXT
    assert _names(text) == [member.name for member in parsed(text).members()] == ["m1", "m2", "m9"]


def test_line_ends_of_windows_stay() -> None:
    """A file that was written on Windows is Windows' all over afterwards."""
    old = (_TWO + _FORWARD).replace("\n", "\r\n")
    new = with_member(old, _NEW)
    assert new == (_TWO + _NEW_TEXT + _FORWARD).replace("\n", "\r\n")
    assert without_member(new, "m9") == old
    assert "\n" not in without_member(old, "m1").replace("\r\n", "")


def test_a_comment_stays_with_what_it_speaks_of() -> None:
    """A comment right behind a member stays behind it; one right before the next table stays before that."""
    assert with_member(f"{_TWO}# end of m2\n", _NEW) == f"{_TWO}# end of m2\n{_NEW_TEXT}"
    assert with_member(f"{_TWO}# end of m2\n\n[log]\n", _NEW) == f"{_TWO}# end of m2\n{_NEW_TEXT}\n[log]\n"
    assert with_member(f"{_TWO}# logs\n[log]\n", _NEW) == f"{_TWO}{_NEW_TEXT}# logs\n[log]\n"


def test_a_name_that_is_taken_is_refused() -> None:
    """A second member of one name is refused with the names that are taken."""
    with pytest.raises(MisconfiguredError, match=r"^a member 'm2' exists already; known are m1, m2$"):
        with_member(_TWO, _NEW | {"name": "m2"})


# removing


def test_a_removed_member_is_gone_and_nothing_else(parsed: Callable[[str], Config]) -> None:
    """The lines of a member's table go; comments, headings and the other member are left as they were."""
    old = _TWO + _FORWARD
    without_first, without_second = without_member(old, "m1"), without_member(old, "m2")
    first, second = _TWO[_TWO.index("\n[[") : _TWO.index("\n# downstairs")], _TWO[_TWO.rindex("[[") :]
    assert without_first == old.replace(first, "")
    assert without_second == old.replace(second, "# a person types it\n")
    assert [member.name for member in parsed(without_first).members()] == ["m2"]
    assert [member.name for member in parsed(without_second).members()] == ["m1"]


def test_the_member_of_init_goes_and_its_explanations_stay(parsed: Callable[[str], Config]) -> None:
    """SoftHSM is replaced by a real HSM, and what init wrote about a member's fields is still there to read."""
    old = with_member(_initialised({"SOFTHSM2_CONF": "/srv/softhsm2.conf"}), _NEW)
    new = without_member(old, "softhsm1")
    assert all(setting.startswith("[[") or " = " in setting for setting in _lost(old, new).splitlines())
    assert _comments(new) == _comments(old)
    assert parsed(new).members() == parsed(old).members()[1:]
    assert parsed(new).file.forward == parsed(old).file.forward


@pytest.mark.parametrize("environment", [None, {"SOFTHSM2_CONF": "/srv/softhsm2.conf"}])
def test_what_was_added_can_be_taken_back(environment: dict[str, str] | None) -> None:
    """A member that was added and removed again leaves the file as it was, byte for byte."""
    old = _initialised(environment)
    assert without_member(with_member(old, _NEW), "m9") == old


def test_a_member_that_is_not_there_is_refused() -> None:
    """A name that no member has is refused with those that there are."""
    with pytest.raises(MisconfiguredError, match=r"^there is no member 'm3'; known are m1, m2$"):
        without_member(_TWO, "m3")


def test_the_last_member_stays() -> None:
    """A configuration without members would be none, so the last one cannot be removed."""
    with pytest.raises(MisconfiguredError, match=r"^'m2' is the last member, .*; add another before removing it$"):
        without_member(without_member(_TWO, "m1"), "m2")


# texts as operators write them

_SUB_TABLES = """
[[hsm.members]]
name = "m1"
module = "/lib/vendor.so"
slot = 1
  [hsm.members.pin]
  command = [
    "pass",  # [[hsm.members]]
    "hsm",
  ]

[[hsm.members]]
name = "m2"
module = "/lib/vendor.so"
slot = 2
pin.file = "pin"
"""
_APART = f"""
[[hsm.members]]
name = "m1"
module = "/lib/vendor.so"
slot = 1
pin = {{ file = "pin" }}
{_FORWARD}
# whose?
[hsm.members.environment]
A = '''
[[hsm.members]]
name = "m3"'''

[log]
level = "info"

[[ "hsm" . members ]]
module = "/lib/vendor.so"
slot = 2
pin = {{ file = "pin" }}
name = "m2"
[proxy]
workers = 2
"""


@pytest.mark.parametrize(
    "text",
    [_SUB_TABLES + _FORWARD, _FORWARD + _SUB_TABLES, _APART, f"{_TWO}[hsm]\n{_FORWARD}", f"[hsm]\n{_TWO}{_FORWARD}"],
    ids=["sub-tables", "behind other tables", "apart", "before [hsm]", "behind [hsm]"],
)
def test_members_are_found_wherever_they_stand(parsed: Callable[[str], Config], text: str) -> None:
    """Members behind or between other tables, with sub-tables near or far, come and go like any others."""
    old = parsed(text)
    added = with_member(text, _NEW)
    assert parsed(added).members()[:2] == old.members()
    assert [member.name for member in parsed(added).members()] == ["m1", "m2", "m9"]
    assert without_member(added, "m9") == text
    for name, kept in (("m1", 1), ("m2", 0)):
        removed = parsed(without_member(text, name))
        assert removed.members() == [old.members()[kept]]
        assert (removed.file.forward, removed.file.log, removed.file.proxy) == (
            old.file.forward, old.file.log, old.file.proxy,
        )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ['[hsm]\nmembers = [{ name = "m1" }]\n', 'hsm.members = [{ name = "m1" }]\n', "[hsm.members]\nname = 'm1'\n"],
)
def test_members_in_one_array_are_refused(text: str) -> None:
    """Members that are no tables of their own are refused with the way to write them."""
    for edit in (lambda: with_member(text, _NEW), lambda: without_member(text, "m1")):
        with pytest.raises(
            MisconfiguredError, match=r"^hsm\.members: .* a table that begins with \[\[hsm\.members\]\]; write it so$"
        ):
            edit()


@pytest.mark.parametrize("text", ["", "[hsm]\n", "[hsm]\nmembers = []\n", "hsm = 1\n", "[[hsm]]\n", _FORWARD])
def test_a_file_without_members_is_refused(text: str) -> None:
    """What has no member is no configuration of hsmitm, and is not made one by adding a member."""
    with pytest.raises(MisconfiguredError, match=r"^hsm\.members: there is no member; .*'hsmitm init'$"):
        with_member(text, _NEW)


@pytest.mark.parametrize("text", ["[[hsm.members]\n", f"{_TWO}name = 'again'\n", "\ufeff" + _TWO])
def test_a_text_that_is_not_toml_is_refused(text: str) -> None:
    """A file with a slip in it is not edited; the line of the slip is named."""
    for edit in (lambda: with_member(text, _NEW), lambda: without_member(text, "m1")):
        with pytest.raises(MisconfiguredError, match=r"^the configuration is not TOML: .*line \d+"):
            edit()


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_MEMBERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"name": st.from_regex(r"n[A-Za-z0-9._-]{0,30}", fullmatch=True), "module": _TEXT},
    optional={
        "token": _TEXT,
        "slot": st.integers(0, 2**63 - 1),
        "pin": st.fixed_dictionaries({"command": st.lists(_TEXT)}),
        "environment": st.dictionaries(_TEXT, _TEXT, max_size=3),
    },
)
_FILLINGS = st.lists(
    st.sampled_from(["\n", "  \n", "# a comment\n", "  # [[hsm.members]]\n", "# ---- 'heading\u2028 ----\n"]),
    max_size=4,
).map("".join)
_TABLES = st.sampled_from(["[log]\n", '[log]\nlevel = """\n[[hsm.members]]\n"""\n', "[hsm]\nodd = 1\n", "[[others]]\n"])


@st.composite
def _files(draw: st.DrawFn) -> str:
    """A file of two to four members m0 to m3, comments and blank lines anywhere, other tables between and behind."""
    tables = draw(st.lists(_TABLES, unique_by=lambda table: table[:5], max_size=3))
    for number in range(draw(st.integers(2, 4))):
        settings = [f'name = "m{number}" # name\n', *draw(st.lists(st.sampled_from(["a.b = 1\n"]), max_size=1))]
        member = "[[hsm.members]]\n" + "".join(draw(_FILLINGS) + line for line in settings)
        if draw(st.booleans()):
            member += draw(_FILLINGS) + "[hsm.members.environment]\nA = [\n# of A\n1,\n]\n"
        tables.insert(draw(st.integers(0, len(tables))), member)
    text = draw(_FILLINGS) + "".join(table + draw(_FILLINGS) for table in tables)
    return text if draw(st.booleans()) else text.replace("\n", "\r\n")


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(text=_files(), member=_MEMBERS)
def test_adding_and_removing_leaves_any_file_as_it_was(text: str, member: dict[str, Any]) -> None:
    """However a file is written and whatever a member is: it arrives as given, behind the others, and can be undone."""
    added = with_member(text, member)
    old = tomllib.loads(text)
    expected = old["hsm"] | {"members": [*old["hsm"]["members"], member]}
    assert tomllib.loads(added) == old | {"hsm": expected}
    assert without_member(added, member["name"]) == text


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(text=_files(), data=st.data())
def test_removing_leaves_the_rest_of_any_file(text: str, data: st.DataObject) -> None:
    """However a file is written: the member named goes, and each comment line and everything of the others stays."""
    old = tomllib.loads(text)
    name = data.draw(st.sampled_from(_names(text)))
    removed = without_member(text, name)
    others = [member for member in old["hsm"]["members"] if member["name"] != name]
    assert tomllib.loads(removed) == old | {"hsm": old["hsm"] | {"members": others}}
    assert _comments(removed) == _comments(text)
    assert f'"{name}"' in _lost(text, removed)


# the file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration's file."""
    path = tmp_path / "hsmitm.toml"
    path.write_bytes(b"old\r\n")
    path.chmod(0o640)
    return path


def test_a_file_is_read_and_written_byte_for_byte(file: Path) -> None:
    """Neither reading nor writing changes a line end or a letter."""
    assert read(file) == "old\r\n"
    write(file, "ä\r\n\n")
    assert file.read_bytes() == "ä\r\n\n".encode()
    assert read(file) == "ä\r\n\n"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_a_files_mode_stays(file: Path, mode: int) -> None:
    """Who could read the configuration before can read it afterwards, and no one else."""
    file.chmod(mode)
    write(file, "new")
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert read(file) == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_files_owner_stays(file: Path) -> None:
    """When root edits the file of another user, it stays that user's."""
    os.chown(file, 12345, 23456)
    write(file, "new")
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    """A configuration that is a symbolic link to its file elsewhere is edited there."""
    links = tmp_path / "etc"
    links.mkdir()
    link = links / "hsmitm.toml"
    link.symlink_to("../hsmitm.toml")
    write(link, "new")
    assert link.is_symlink()
    assert read(file) == "new"
    assert list(links.iterdir()) == [link]


def test_a_reader_never_sees_half_a_file(file: Path) -> None:
    """A process that reads while the file is replaced has the old text to its end."""
    with file.open("rb") as opened:
        write(file, "new")
        assert opened.read() == b"old\r\n"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_cannot_be_written_stays_as_it_was(file: Path) -> None:
    """When there is no room the operator is told so, the old text is in place, and nothing else is left behind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(MisconfiguredError, match=f"^cannot write {file}: File too large$"):
            write(file, "#" * 1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"old\r\n"
    assert list(file.parent.iterdir()) == [file]


def test_what_cannot_be_replaced_is_said(tmp_path: Path) -> None:
    """A file that is missing, a link in a circle, a directory, a device: each is refused with the reason."""
    link = tmp_path / "link"
    link.symlink_to(link)
    for path, reason in (
        (tmp_path / "missing", "No such file or directory"),
        (link, "Too many levels of symbolic links"),
        (tmp_path, "it is not a regular file"),
        (Path("/dev/null"), "it is not a regular file"),
    ):
        with pytest.raises(MisconfiguredError, match=f"^cannot write {path}: {reason}$"):
            write(path, "new")
    with pytest.raises(MisconfiguredError, match=f"^cannot read {tmp_path}: Is a directory$"):
        read(tmp_path)


def test_what_is_no_text_is_neither_read_nor_written(file: Path) -> None:
    """Bytes that are not UTF-8, from the file or from an environment variable, are refused in a sentence."""
    with pytest.raises(MisconfiguredError, match=r"^cannot write .*: '\\udcff' is no character; write UTF-8 only$"):
        write(file, with_member(_TWO, _NEW | {"environment": {"A": "\udcff"}}))
    assert read(file) == "old\r\n"
    file.write_bytes(b'a = "\xff"\n')
    with pytest.raises(MisconfiguredError, match=r"^hsmitm\.toml is not TOML: "):
        read(file)
