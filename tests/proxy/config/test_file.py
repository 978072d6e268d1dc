"""hsmitm.toml: every mistake names its field and says what would be right; what is right becomes objects."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm.codes import Kind
from hsm.errors import MisconfiguredError
from hsm.secrets.settings import PinSource
from hsm.wire.member import Selector
from hsm.wire.worker import MAX_WORKERS
from proxy.commands.init.place import Place
from proxy.commands.init.text import text
from proxy.commands.init.wanted import Wanted
from proxy.config.file import Config, File, load
from proxy.config.forward import ForwardSection
from proxy.config.operation import DecryptionLogSection, ProxySection, RunSection, StatusSection
from proxy.config.section import Address
from tests.proxy.config.made_keys import made_keys

_MEMBER = """
[[hsm.members]]
name = "m1"
module = "/lib/vendor.so"
token = "partition"
pin = { file = "pin" }
"""
_FORWARD = """
[forward]
[forward.trust]
certificate = "trust.pem"
key = "pkcs11:token=partition;object=trust"
[forward.untrust]
certificate = "untrust.pem"
key = "pkcs11:token=partition;object=untrust"
"""
_MINIMAL = _MEMBER + _FORWARD


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Config]:
    """Reads a configuration's text from a file."""

    def reading(text: str) -> Config:
        path = tmp_path / "hsmitm.toml"
        path.write_text(text)
        return load(path)

    return reading


def _refusal(read: Callable[[str], Config], text: str) -> str:
    with pytest.raises(MisconfiguredError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith("hsmitm.toml")
    return message


def _changed(old: str, new: str) -> str:
    assert old in _MINIMAL
    return _MINIMAL.replace(old, new, 1)


# what is right


def test_little_is_required(read: Callable[[str], Config]) -> None:
    """A member and two CAs are a whole configuration; the rest has defaults that are safe."""
    config = read(_MINIMAL)
    assert config.listen == Address("127.0.0.1", 8080)
    assert config.status_listen == Address("127.0.0.1", 9797)
    assert config.workers == len(os.sched_getaffinity(0))
    assert config.upstream_ca is None
    assert config.file.mitmproxy.options == {}
    assert config.file.log.level == "info"


def test_relative_paths_start_from_the_files_directory(
    read: Callable[[str], Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hsmitm may be started from anywhere: paths in the file mean what they mean beside the file."""
    text = _changed("/lib/vendor.so", "lib/vendor.so") + '[proxy]\nupstream_ca = "roots.pem"\n'
    read(text)
    monkeypatch.chdir(tmp_path)
    config = load(Path("hsmitm.toml"))
    monkeypatch.chdir("/")
    signer = config.signer()
    assert config.upstream_ca == tmp_path / "roots.pem"
    assert config.run.path == tmp_path / "run"
    assert signer.state == tmp_path / "state"
    assert signer.authorities["trust"].certificate == tmp_path / "trust.pem"
    assert signer.members[0].module == str(tmp_path / "lib/vendor.so")
    assert signer.members[0].base == tmp_path


def test_absolute_paths_and_bare_library_names_are_taken_as_they_are(read: Callable[[str], Config]) -> None:
    """A library without a slash is looked up by the system's loader; an absolute path is an absolute path."""
    absolute = read(_MINIMAL + '[run]\ndirectory = "/run/hsmitm"\n')
    assert absolute.members()[0].module == "/lib/vendor.so"
    assert absolute.run.path == Path("/run/hsmitm")
    assert read(_changed("/lib/vendor.so", "libvendor.so")).members()[0].module == "libvendor.so"


@pytest.mark.parametrize(
    ("given_by", "expected"),
    [
        ('token = "partition"', Selector(label="partition")),
        ('serial = "0815"', Selector(serial="0815")),
        ("slot = 0", Selector(slot=0)),
    ],
)
def test_a_partition_is_named_in_one_of_three_ways(
    read: Callable[[str], Config], given_by: str, expected: Selector
) -> None:
    """A partition is found by its label, its serial number or its slot, the slot 0 too."""
    assert read(_changed('token = "partition"', given_by)).members()[0].selector == expected


def test_a_members_settings_arrive(read: Callable[[str], Config]) -> None:
    """Sessions and environment are handed to the member, values as they stand."""
    more = 'token = "partition"\nsessions = 12\nenvironment = { SOFTHSM2_CONF = "~/a.conf", EMPTY = "" }'
    member = read(_changed('token = "partition"', more)).members()[0]
    assert member.sessions == 12
    assert member.environment == {"SOFTHSM2_CONF": "~/a.conf", "EMPTY": ""}
    assert member.pin.file == "pin"


def test_sixteen_members_are_possible(read: Callable[[str], Config]) -> None:
    """A group of sixteen partitions can be configured."""
    members = "".join(_MEMBER.replace("m1", f"m{number}") for number in range(16))
    config = read(f"[hsm]\nhigh_availability = true\n{members}{_FORWARD}")
    assert [member.name for member in config.members()] == [f"m{number}" for number in range(16)]


def test_a_members_vendor_codes(read: Callable[[str], Config]) -> None:
    """What a vendor's own return codes mean stands in a table of the member, in words; without it nothing is listed."""
    codes = '[hsm.members.codes]\n"0x80000383" = "busy"\n"0xCE000001" = "lost"\n'
    listed = read(_changed("[forward]", f"{codes}[forward]")).members()[0]
    assert listed.codes == {0x80000383: Kind.BUSY, 0xCE000001: Kind.PROCESS}
    assert read(_MINIMAL).members()[0].codes == {}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('"0x30" = "busy"', "hsm.members[0]: codes: 0x30 is no code of a vendor's own; those begin at 0x80000000"),
        ('"CKR_BUSY" = "busy"', "hsm.members[0]: codes: 'CKR_BUSY' is no return code; write it as the vendor's header"),
        ('"0x80000383" = "later"', "hsm.members[0].codes.0x80000383: invalid enum value 'later'; one of "),
        ('"0x80000383" = 1', "hsm.members[0].codes.0x80000383: expected `str`"),
    ],
)
def test_wrong_vendor_codes_are_refused(read: Callable[[str], Config], row: str, expected: str) -> None:
    """A code of the standard, what is no code, and a word that is none are named, with what would be right."""
    message = _refusal(read, _changed("[forward]", f"[hsm.members.codes]\n{row}\n[forward]"))
    assert message.startswith(f"hsmitm.toml: {expected}")


@pytest.mark.parametrize("name", ["a", "HSM-1.rack_2", "9", "m" * 31])
def test_names_that_members_may_have(read: Callable[[str], Config], name: str) -> None:
    """A member's name has letters, digits, dots, underscores and hyphens, 31 of them at most."""
    assert read(_changed('"m1"', f'"{name}"')).members()[0].name == name


def test_the_secret_variables_are_known(read: Callable[[str], Config]) -> None:
    """Variables that hold PINs, and systemd's credentials, are kept from the processes that meet the network."""
    second = _MEMBER.replace("m1", "m2").replace('{ file = "pin" }', '{ env = "HSM_PIN" }')
    third = _MEMBER.replace("m1", "m3").replace('{ file = "pin" }', '{ env = "OTHER_PIN" }')
    config = read("[hsm]\nhigh_availability = true\n" + _MEMBER + second + third + _FORWARD)
    assert config.secret_variables == {"HSM_PIN", "OTHER_PIN", "CREDENTIALS_DIRECTORY"}


@pytest.mark.parametrize(
    "mode", ["regular", "transparent", "socks5", "upstream:http://proxy:3128", "upstream:https://p"]
)
def test_modes_that_the_proxy_has(read: Callable[[str], Config], mode: str) -> None:
    """Each of the four modes is taken."""
    assert read(f'{_MINIMAL}[proxy]\nmode = "{mode}"\n').file.proxy.mode == mode


def test_the_status_page_can_be_turned_off(read: Callable[[str], Config]) -> None:
    """An empty address means that no status page is served."""
    assert read(_MINIMAL + '[status]\nlisten = ""\n').status_listen is None


def test_a_number_of_workers_can_be_asked_for(read: Callable[[str], Config]) -> None:
    """A number other than 0 is the number of workers, whatever the machine has."""
    assert read(_MINIMAL + "[proxy]\nworkers = 3\n").workers == 3


def test_users_are_known_by_number(read: Callable[[str], Config]) -> None:
    """The users that may ask for leaves are looked up on the machine; one that is not there is named."""
    assert read(_MINIMAL + '[run]\nusers = ["root"]\n').signer().users == {0}
    absent = read(_MINIMAL + '[run]\nusers = ["root", "no-such-user"]\n')
    with pytest.raises(MisconfiguredError, match=r"^run\.users: there is no user 'no-such-user' on this machine$"):
        absent.signer()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:1", Address("::1", 1)),
        (":65535", Address("", 65535)),
        ("localhost:0", Address("localhost", 0)),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, expected: Address) -> None:
    """An address is shown as it is written in the file."""
    assert Address.parse(text) == expected
    assert str(expected) == text


def test_a_star_is_every_address() -> None:
    """`*:8080` is what `:8080` is, as other programs write it; `[::]:8080` is all of IPv6."""
    assert Address.parse("*:8080") == Address.parse(":8080") == Address("", 8080)
    assert Address.parse("[::]:8080") == Address("::", 8080)


def test_a_machine_of_many_cores_has_as_many_workers_as_there_may_be(
    read: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker for each core ends at the number that a configuration may ask for: the signer knows no more."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(MAX_WORKERS + 128)))
    assert read(_MINIMAL).workers == MAX_WORKERS


# what is wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[prxy]", "prxy: unknown field; did you mean 'proxy'?"),
        ('[proxy]\nlistn = ":1"', "proxy.listn: unknown field; did you mean 'listen'?"),
        ("[status]\nzzz = 1", "status.zzz: unknown field; known are listen, hosts, user"),
        ("[log]\nlevle = 1", "log.levle: unknown field; did you mean 'level'?"),
        ("[run]\ndirectry = 1", "run.directry: unknown field; did you mean 'directory'?"),
        ("[mitmproxy]\noption = {}", "mitmproxy.option: unknown field; did you mean 'options'?"),
    ],
)
def test_an_unknown_field_is_named_with_a_suggestion(read: Callable[[str], Config], text: str, expected: str) -> None:
    """A typing error is not ignored: it is named with its place, and with what was probably meant."""
    assert _refusal(read, _MINIMAL + text) == f"hsmitm.toml: {expected}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('token = "partition"', 'tokn = "x"', "hsm.members[0].tokn: unknown field; did you mean 'token'?"),
        ('{ file = "pin" }', '{ fil = "pin" }', "hsm.members[0].pin.fil: unknown field; did you mean 'file'?"),
        ("[forward]", "[forward]\nleaf_day = 1", "forward.leaf_day: unknown field; did you mean 'leaf_days'?"),
        ("[forward.trust]", "[forward.trust]\nzzz = 1", "forward.trust.zzz: unknown field; known are certificate, key"),
    ],
)
def test_an_unknown_field_deep_inside_is_named_too(
    read: Callable[[str], Config], old: str, new: str, expected: str
) -> None:
    """The place of a typing error is named to the very member."""
    assert _refusal(read, _changed(old, new)) == f"hsmitm.toml: {expected}"


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (_MEMBER, "hsm"),
        ('name = "m1"\n', "hsm.members[0].name"),
        ('module = "/lib/vendor.so"\n', "hsm.members[0].module"),
        ('pin = { file = "pin" }\n', "hsm.members[0].pin"),
        ('certificate = "trust.pem"\n', "forward.trust.certificate"),
        ('key = "pkcs11:token=partition;object=untrust"\n', "forward.untrust.key"),
    ],
)
def test_what_is_missing_is_named(read: Callable[[str], Config], old: str, expected: str) -> None:
    """A field that must be there and is not is named."""
    assert _refusal(read, _changed(old, "")) == f"hsmitm.toml: {expected}: this field is required"


_FIELDS = [
    ("proxy", "listen", "1"), ("proxy", "mode", "[]"), ("proxy", "workers", '"two"'), ("proxy", "workers", "true"),
    ("proxy", "upstream_ca", "7"), ("proxy", "connect_timeout_s", '"10"'), ("proxy", "mint_timeout_s", "[]"),
    ("proxy", "client_handshake_timeout_s", "{}"), ("proxy", "grace_s", '"5s"'), ("status", "listen", "9797"),
    ("run", "directory", "1"), ("run", "state", "1"), ("run", "group", "0"), ("run", "users", '"root"'),
    ("mitmproxy", "scripts", '"a.py"'), ("mitmproxy", "options", "[]"), ("log", "level", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "name", "value"), _FIELDS)
def test_a_value_of_the_wrong_type_is_named(read: Callable[[str], Config], section: str, name: str, value: str) -> None:
    """Every field says what type it takes when it gets another."""
    message = _refusal(read, f"{_MINIMAL}[{section}]\n{name} = {value}\n")
    assert message.startswith(f"hsmitm.toml: {section}.{name}: expected `")


@pytest.mark.parametrize(
    ("name", "value"),
    [("name", "1"), ("module", "[]"), ("token", "1"), ("serial", "1"), ("slot", '"0"'), ("sessions", '"8"'),
     ("environment", '["A=1"]'), ("pin", "true")],
)  # fmt: skip
def test_a_members_value_of_the_wrong_type_is_named(read: Callable[[str], Config], name: str, value: str) -> None:
    """Every field of a member says what type it takes, and which member it is."""
    kept = [line for line in _MEMBER.splitlines() if not line.startswith(f"{name} =")]
    message = _refusal(read, "\n".join([*kept, f"{name} = {value}"]) + _FORWARD)
    assert message.startswith(f"hsmitm.toml: hsm.members[0].{name}: expected `")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"[proxy]\nworkers = {MAX_WORKERS + 1}", f"proxy.workers: expected `int` <= {MAX_WORKERS}"),
        ("[proxy]\nworkers = -1", "proxy.workers: expected `int` >= 0"),
        ("[proxy]\nconnect_timeout_s = 0", "proxy.connect_timeout_s: expected `float` > 0.0"),
        ("[proxy]\nconnect_timeout_s = nan", "proxy.connect_timeout_s: expected `float` > 0.0"),
        ("[proxy]\nclient_handshake_timeout_s = 601", "proxy.client_handshake_timeout_s: expected `float` <= 600.0"),
        ("[proxy]\nmint_timeout_s = 61", "proxy.mint_timeout_s: expected `float` <= 60.0"),
        ("[proxy]\ngrace_s = inf", "proxy.grace_s: expected `float` <= 3600.0"),
        ("[proxy]\ngrace_s = -1", "proxy.grace_s: expected `float` >= 0.0"),
        ('[log]\nlevel = "warn"', "log.level: invalid enum value 'warn'; one of debug, info, warning, error"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(read: Callable[[str], Config], text: str, expected: str) -> None:
    """A number that makes no sense is refused with the limit; a word with the words there are."""
    assert _refusal(read, _MINIMAL + text) == f"hsmitm.toml: {expected}"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("leaf_days = 46", "forward.leaf_days: expected `int` <= 45"),
        ("leaf_days = 0", "forward.leaf_days: expected `int` >= 1"),
        ("cache_entries = 0", "forward.cache_entries: expected `int` >= 1"),
        ("cache_entries = 1000001", "forward.cache_entries: expected `int` <= 1000000"),
    ],
)
def test_leaves_stay_within_what_clients_accept(read: Callable[[str], Config], setting: str, expected: str) -> None:
    """A leaf of 46 days, which with its back-dating browsers may refuse, cannot be configured."""
    assert _refusal(read, _changed("[forward]", f"[forward]\n{setting}")) == f"hsmitm.toml: {expected}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("token", 'serial = "1"\ntoken', "hsm.members[0]: name the partition by exactly one of token"),
        ("token", "slot = 0\ntoken", "hsm.members[0]: name the partition by exactly one of token"),
        ('token = "partition"\n', "", "hsm.members[0]: name the partition by exactly one of token"),
        ("token", "sessions = 0\ntoken", "hsm.members[0].sessions: expected `int` >= 1"),
        ("token", "sessions = 1025\ntoken", "hsm.members[0].sessions: expected `int` <= 1024"),
        ('token = "partition"', "slot = -1", "hsm.members[0].slot: expected `int` >= 0"),
        ("token", "environment = { A = 1 }\ntoken", "hsm.members[0].environment.A: expected `str`, got `int`"),
    ],
)
def test_a_member_that_cannot_be_is_refused(read: Callable[[str], Config], old: str, new: str, expected: str) -> None:
    """A partition named twice, or not at all, or with no session: the member is named, and what is wrong with it."""
    assert _refusal(read, _changed(old, new)).startswith(f"hsmitm.toml: {expected}")


@pytest.mark.parametrize("name", ["m" * 32, "mü", "", "-m", ".m", "a b", "a/b", "m1\\n"])
def test_names_that_no_member_may_have(read: Callable[[str], Config], name: str) -> None:
    """A name that would not fit into a file's name or a log line is refused with the rule."""
    assert _refusal(read, _changed('"m1"', f'"{name}"')) == (
        "hsmitm.toml: hsm.members[0].name: 1 to 31 ASCII letters, digits, dots, underscores or hyphens, "
        "beginning with a letter or digit"
    )


def test_two_members_of_one_name_are_refused(read: Callable[[str], Config]) -> None:
    """Members are told apart by their names."""
    assert _refusal(read, _MEMBER + _MEMBER + _FORWARD) == "hsmitm.toml: hsm: two members have the same name"


def test_seventeen_members_are_too_many(read: Callable[[str], Config]) -> None:
    """The limit of a group is named."""
    many = "".join(_MEMBER.replace("m1", f"m{number}") for number in range(17))
    assert _refusal(read, many + _FORWARD) == "hsmitm.toml: hsm.members: expected `array` of length <= 16"


def test_a_group_without_members_is_refused(read: Callable[[str], Config]) -> None:
    """An empty list of members is no configuration."""
    assert _refusal(read, "[hsm]\nmembers = []\n" + _FORWARD) == (
        "hsmitm.toml: hsm.members: expected `array` of length >= 1"
    )


def test_a_pin_in_the_file_is_refused_and_not_repeated(read: Callable[[str], Config]) -> None:
    """A PIN that was written straight into the file is not taken, and does not reach the terminal or a log."""
    message = _refusal(read, _changed('{ file = "pin" }', '"hunter2-4711"'))
    assert message.startswith("hsmitm.toml: hsm.members[0].pin: ")
    assert "4711" not in message


@pytest.mark.parametrize(
    "source",
    [
        '{ file = "pin", env = "PIN" }',
        "{}",
        "{ prompt = false }",
        '{ prompt = true, credential = "pin" }',
        "{ empty = true, none = true }",
        "{ pad = false }",
    ],
)
def test_a_pin_comes_from_one_source(read: Callable[[str], Config], source: str) -> None:
    """Two sources of a PIN, or none, are refused with the list of sources."""
    assert _refusal(read, _changed('{ file = "pin" }', source)) == (
        "hsmitm.toml: hsm.members[0].pin: give exactly one of file, env, command, credential, prompt, empty, pad, none"
    )


def test_a_pin_command_of_nothing_is_refused(read: Callable[[str], Config]) -> None:
    """A PIN command without a program is refused here, not by an internal error when it is run."""
    assert "hsm.members[0].pin" in _refusal(read, _changed('{ file = "pin" }', "{ command = [] }"))


@pytest.mark.parametrize(
    "address", ["8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", ":65536", ":-1", ":١٢", "", "127.0.0.1:80:90"]
)
def test_what_is_no_address_is_refused_with_an_example(read: Callable[[str], Config], address: str) -> None:
    """An address that cannot be read is repeated beside one that could."""
    message = _refusal(read, f'{_MINIMAL}[proxy]\nlisten = "{address}"\n')
    assert message.startswith(f"hsmitm.toml: proxy: listen: '{address}'")
    assert "for example" in message


def test_an_ipv6_address_needs_brackets(read: Callable[[str], Config]) -> None:
    """An IPv6 address without brackets is ambiguous, and refused with an example."""
    expected = "hsmitm.toml: status: listen: '::1:9797': write an IPv6 address in brackets, for example [::1]:8080"
    assert _refusal(read, _MINIMAL + '[status]\nlisten = "::1:9797"\n') == expected


@pytest.mark.parametrize("mode", ["", "reverse:https://x", "upstream:", "upstream:ftp://x", "Regular", "regular\\n"])
def test_a_mode_that_is_none_is_refused_with_the_list(read: Callable[[str], Config], mode: str) -> None:
    """A mode that the proxy does not have is refused with those that it has."""
    message = _refusal(read, f'{_MINIMAL}[proxy]\nmode = "{mode}"\n')
    assert message.startswith("hsmitm.toml: proxy: mode: ")
    assert message.endswith("use regular, transparent, socks5 or upstream:http(s)://host:port")


@pytest.mark.parametrize("listed", ["0", '"mail.example"', '"mail.example:0"', "25, 65536"])
def test_a_place_for_streams_that_is_none_is_refused(read: Callable[[str], Config], listed: str) -> None:
    """What may pass although it is neither TLS nor HTTP is a port, or a host and its port."""
    message = _refusal(read, f"{_MINIMAL}[proxy]\nnot_tls_ports = [{listed}]\n")
    assert message.startswith("hsmitm.toml: proxy: not_tls_ports: ")
    assert message.endswith('is neither a port nor host:port; write 25 or "mail.example:587"')


def test_streams_pass_where_they_are_listed(read: Callable[[str], Config]) -> None:
    """By default none passes; a port or a host and its port may, or all."""
    assert not read(_MINIMAL).file.proxy.passing.passes(("mail.example", 25))
    some = read(_MINIMAL + '[proxy]\nnot_tls_ports = [25, "mail.example:587"]\n').file.proxy.passing
    assert some.passes(("any.example", 25))
    assert some.passes(("mail.example", 587))
    assert not some.passes(("any.example", 587))
    assert read(_MINIMAL + '[proxy]\nnot_tls = "pass"\n').file.proxy.passing.passes(("any.example", 1))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("trust.key", "a PKCS#11 URI starts with 'pkcs11:'"),
        ("pkcs11:token=t", "name the key by its label"),
        ("pkcs11:token=t;object=a?pin-value=4711", "'pin-value' does not belong in a URI"),
        ("pkcs11:object=a;slot-id=1", "'slot-id' belongs to the member"),
    ],
)
def test_a_key_that_cannot_be_named_so_is_refused(read: Callable[[str], Config], uri: str, expected: str) -> None:
    """A key's URI is checked with the file, and a PIN in it is not repeated."""
    message = _refusal(read, _changed("pkcs11:token=partition;object=untrust", uri))
    assert message.startswith(f"hsmitm.toml: forward.untrust: key: {expected}")
    assert "4711" not in message


_EC = """
[[forward.trust]]
certificate = "ec.pem"
key = "pkcs11:token=partition;object=ec"
"""


def _two(more: str = "") -> str:
    """A file with an RSA and an EC CA of each kind."""
    text = _MINIMAL.replace("[forward.trust]", "[[forward.trust]]").replace("[forward.untrust]", "[[forward.untrust]]")
    return text + _EC + _EC.replace("trust", "untrust").replace("=ec", "=uec").replace('"ec', '"uec') + more


def test_a_kind_of_ca_may_have_two(read: Callable[[str], Config], tmp_path: Path) -> None:
    """One with an RSA key and one with an EC key, in order of preference; one table is what it always was."""
    signer = read(_two()).signer()
    assert {name: (one.certificate.name, one.key.object) for name, one in signer.authorities.items()} == {
        "trust": ("trust.pem", "trust"),
        "untrust": ("untrust.pem", "untrust"),
        "trust-2": ("ec.pem", "ec"),
        "untrust-2": ("uec.pem", "uec"),
    }
    assert set(signer.holders) == {"trust", "untrust", "trust-2", "untrust-2"}
    only = _MINIMAL.replace("[forward.trust]", "[[forward.trust]]")
    assert read(only).signer().authorities == read(_MINIMAL).signer().authorities


def test_three_cas_of_a_kind_are_one_too_many(read: Callable[[str], Config]) -> None:
    """There is nothing that a third one could be for; none at all is as wrong."""
    for wrong, number in ((_two(_EC), 3), (_MEMBER + "[forward]\ntrust = []\nuntrust = []\n", 0)):
        assert f"forward: trust: a list of {number}; give one CA, or two" in _refusal(read, wrong)


def test_the_second_ca_is_named_by_its_place(read: Callable[[str], Config]) -> None:
    """An operator finds the entry that is wrong."""
    wrong = _two().replace("object=uec", "slot-id=1")
    assert "forward.untrust[1]: key: 'slot-id' belongs" in _refusal(read, wrong)


# the file itself


def test_no_file_is_a_hint_to_init(tmp_path: Path) -> None:
    """Who starts without a configuration is told how to make one."""
    path = tmp_path / "hsmitm.toml"
    with pytest.raises(MisconfiguredError) as caught:
        load(path)
    assert str(caught.value) == f"there is no configuration at {path}; make one with 'hsmitm init'"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A directory in the file's place is a sentence, not a traceback."""
    with pytest.raises(MisconfiguredError, match=f"^cannot read {tmp_path}: Is a directory$"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"[proxy", b"listen: 8080\n", b"\xff\xfe\x00", b'a = "\xfc"', b"a = 1\na = 2\n"])
def test_what_is_not_toml_is_said(tmp_path: Path, content: bytes) -> None:
    """A file that is not TOML is refused as a whole."""
    path = tmp_path / "hsmitm.toml"
    path.write_bytes(content)
    with pytest.raises(MisconfiguredError, match=r"^hsmitm\.toml is not TOML: "):
        load(path)


# the template of `hsmitm init`


def _initialised(label: str = "hsmitm", **more: object) -> str:
    values = {"listen": "127.0.0.1:8080", "status_listen": "127.0.0.1:9797", "module": None, "token": None} | more
    wanted = Wanted(directory=Path(), **values)  # type: ignore[arg-type]
    environment = {"SOFTHSM2_CONF": f"/srv/{label}/softhsm2.conf"}
    place = Place(
        module="/lib/vendor.so",
        selector=Selector(label),
        environment=environment,
        pin="",
        pin_source=PinSource(file="pin"),
        member="m1",
    )
    return text(wanted, place, made_keys(label))


def test_what_init_writes_can_be_read(read: Callable[[str], Config]) -> None:
    """A fresh hsmitm.toml is valid, and says of every setting what holds without it too, but for the decryption log:
    that is off in a file of before."""
    config = read(_initialised())
    forward = ForwardSection(trust=config.file.forward.trust, untrust=config.file.forward.untrust)
    written = DecryptionLogSection(file="decryption.jsonl")
    blank = File(hsm=config.file.hsm, forward=forward, decryption_log=written)
    assert config.file == blank
    assert config.members()[0].selector == Selector(label="hsmitm")
    assert config.members()[0].environment == {"SOFTHSM2_CONF": "/srv/hsmitm/softhsm2.conf"}
    assert config.signer().authorities["untrust"].key.object == "hsmitm-forward-untrust"
    assert config.signer().authorities["trust"].key.token == "hsmitm"


def test_what_init_was_told_is_in_the_file(read: Callable[[str], Config]) -> None:
    """Addresses, roots and scripts of the command line are in the file that init writes."""
    told = {"listen": "[::1]:1", "status_listen": "", "upstream_ca": "company.pem", "scripts": ("a.py", "b c.py")}
    config = read(_initialised(**told))
    assert (config.file.proxy, config.file.status, config.file.run) == (
        ProxySection(listen="[::1]:1", upstream_ca="company.pem"), StatusSection(listen=""), RunSection(),
    )  # fmt: skip
    assert config.file.mitmproxy.scripts == ["a.py", "b c.py"]


_PRINTABLE = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(label=_PRINTABLE)
def test_any_partition_label_survives(read: Callable[[str], Config], label: str) -> None:
    """A partition's label, and a path, with quotes, backslashes, umlauts or emoji is read back as it was."""
    config = read(_initialised(label))
    assert config.members()[0].selector.label == label
    assert config.members()[0].environment == {"SOFTHSM2_CONF": f"/srv/{label}/softhsm2.conf"}
    assert config.signer().authorities["trust"].key.token == label


def test_the_status_page_of_another_user(read: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is another user's is left to that user, unless we are root, who may start it as that user; and the
    signer admits that user where it tells how things are, and nowhere else."""
    config = read(_MINIMAL + '[status]\nuser = "nobody"\n')
    assert config.signer().monitors == {pwd.getpwnam("nobody").pw_uid}
    assert pwd.getpwnam("nobody").pw_uid not in config.signer().users
    for uid, elsewhere in ((0, False), (pwd.getpwnam("nobody").pw_uid, False), (4711, True)):
        monkeypatch.setattr(os, "geteuid", lambda found=uid: found)
        assert config.status_elsewhere is elsewhere
    assert not read(_MINIMAL).status_elsewhere
    with pytest.raises(MisconfiguredError, match=r"status\.user: there is no user 'nobody-at-all' on this machine"):
        read(_MINIMAL + '[status]\nuser = "nobody-at-all"\n').signer()


@pytest.mark.parametrize("host", ["http://a.example", "a.example:9797", "*", "", "a b", "-a"])
def test_names_of_the_status_page(read: Callable[[str], Config], host: str) -> None:
    """What is no plain host name is refused where it is written, with what would be right."""
    said = _refusal(read, _MINIMAL + f'[status]\nhosts = ["{host}"]\n')
    assert said == f"hsmitm.toml: status: hosts: '{host}' is no host name; write names without scheme and port"
