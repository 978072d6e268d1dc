"""A ClientHello is read once, within bounds, however it comes; and it is found in a stream of something else."""

from __future__ import annotations

import os
import time

import pytest

from addons.edge.listeners.hello import HelloError, HelloReader, HelloWatch, names_one, normal
from tests.addons.edge.hellos import built, hello, padded, records

_BYTES, _RECORDS = 65536, 64
VERSIONS = [b"\3\0", b"\3\1", b"\3\3", b"\3\4", b"\3\xff", b"\4\0", b"\2\0", b"\xff\xff"]
"""Of records: what TLS had, and what it had not."""


@pytest.mark.parametrize("cut", [1, 2, 5, 64, 100_000])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sizes", [(16384,), (1, 3, 60, 16384)])
def test_a_hello_is_read_however_it_is_cut(cut: int, version: bytes, sizes: tuple[int, ...]) -> None:
    """Segments, records and the record's version do not matter, and nothing of it is lost for the handshake."""
    whole = records(hello()[5:], *sizes, version=version)
    reader = HelloReader(_BYTES, _RECORDS)
    found = [reader.feed(whole[i : i + cut]) for i in range(0, len(whole), cut)]
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] is not None
    assert found[-1].sni == "a.test"
    assert bytes(reader.raw) == whole


@pytest.mark.parametrize("version", VERSIONS)
def test_libraries_get_versions_that_they_take(version: bytes) -> None:
    """A record's version that TLS never had is 3.3 for OpenSSL and GnuTLS; others, and the bytes behind, stay."""
    taken = version if version[0] == 3 and version[1] <= 3 else b"\3\3"
    message, behind = hello()[5:], b"\x14" + version + b"\0\1\1\x16"
    sent, wanted = (records(message, 60, 16384, version=one) + behind for one in (version, taken))
    assert normal(sent) == wanted


REFUSED = {
    "16 MB": (b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380), "oversized-hello"),
    "more than its bound": (records(padded(_BYTES + 8), 16384), "oversized-hello"),
    "records of one byte": (records(padded(9000), 1), "oversized-hello"),
    "an empty record": (b"\x16\x03\x01\x00\x00" + hello(), "malformed-hello"),
    "an empty record within": (records(hello()[5:], 3)[:8] + b"\x16\x03\x01\x00\x00", "malformed-hello"),
    "an alert in front": (b"\x15\x03\x01\x00\x02\x01\x00" + hello(), "malformed-hello"),
    "an alert within": (records(hello()[5:], 3)[:8] + b"\x15\x03\x01\x00\x02\x01\x00", "malformed-hello"),
    "a record that is too long": (b"\x16\x03\x01\xff\xff\x01", "malformed-hello"),
    "a message that is no ClientHello": (records(b"\x02\0\0\x02\x03\x03", 6), "malformed-hello"),
    "a body cut short": (records(b"\x01\0\0\x05\x03\x03\0\0\0", 9), "malformed-hello"),
    "another protocol": (b"SSH-2.0", "malformed-hello"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("cut", [1, 1000])
def test_what_is_no_hello_or_too_much_of_one_is_refused(what: str, cut: int) -> None:
    """Each has its class, and is refused before more is taken than the bound allows."""
    data, kind = REFUSED[what]
    reader = HelloReader(_BYTES, _RECORDS)
    with pytest.raises(HelloError) as refused:
        _ = [reader.feed(data[i : i + cut]) for i in range(0, len(data), cut)]
    assert refused.value.kind == kind
    assert len(reader.raw) <= _BYTES + cut


def test_the_largest_hello_is_read_in_time_of_its_bytes() -> None:
    """A hello just below the bound, byte by byte, costs milliseconds: reading begins where it stopped."""
    data = records(padded(64000), 2000)
    reader = HelloReader(_BYTES, _RECORDS)
    begin = time.thread_time()
    found = [reader.feed(data[i : i + 1]) for i in range(len(data))]
    assert time.thread_time() - begin < 2
    assert found[-1] is not None


PREFIXES = [
    b"",
    b"STARTTLS\r\n",
    b"\x16",
    b"\x16\x16\x03",
    b"\x16\x03\x01\x00\x10\x02",
    b"\x16\x03\x01\x00\x00",
    bytes(64),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("sizes", [(16384,), (1,), (3, 1, 16384)])
def test_a_hello_is_found_in_a_stream_at_any_byte(prefix: bytes, sizes: tuple[int, ...]) -> None:
    """Whatever stands before it and however it is cut: what is before goes on, the hello does not."""
    begins = records(hello()[5:], *sizes)
    stream = prefix + begins
    for cut in (1, 3, 7, 10_000):
        watch = HelloWatch()
        passed = b"".join(watch.feed(stream[i : i + cut]) for i in range(0, len(stream), cut))
        assert watch.found
        assert (passed, watch.held) == (prefix, begins)


@pytest.mark.parametrize("within", [b"\x15\x03\x01\x00\x02\x01\x00", b"\x16\x03\x01\x00\x00"])
def test_what_stands_between_a_hellos_records_does_not_hide_it(within: bytes) -> None:
    """Servers pass over warnings and empty records, so a hello with some of them in it is one."""
    begins = records(hello()[5:], 1, 16384)
    watch = HelloWatch()
    assert watch.feed(b"x" + begins[:6] + within + begins[6:]) == b"x"
    assert watch.found


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_hello_whose_beginning_was_let_go_is_lost(cut: int) -> None:
    """Who waits between the first bytes until they are passed on gets no further: the server never hears a hello."""
    watch, passed = HelloWatch(), b""
    data = hello()
    for i in range(0, len(data), cut):
        passed += watch.feed(data[i : i + cut]) + watch.release()
    assert watch.lost
    assert len(passed) < 12


def test_ssl_2s_form_of_a_hello_is_seen() -> None:
    """Servers with OpenSSL answer it with TLS 1.2, and nobody could inspect that."""
    head = bytes.fromhex("802e010301001500000010")
    for cut in (1, 4, 100):
        watch, data = HelloWatch(), b"STARTTLS\r\n" + head + bytes(40)
        passed = b"".join(watch.feed(data[i : i + cut]) for i in range(0, len(data), cut))
        assert watch.lost
        assert len(passed) <= 10 + len(head)


def test_a_stream_of_anything_passes_whole() -> None:
    """Random bytes, and those that look like a hello's first ones, go on unchanged."""
    for data in (
        os.urandom(300_000),
        b"\x16\x03" * 9000,
        b"\x16\x03\x01\x00\x05\x01" * 900 + b"\x16",
        b"\x01\x03" * 99,
    ):
        watch, passed = HelloWatch(), b""
        for i in range(0, len(data), 4096):
            passed += watch.feed(data[i : i + 4096])
        assert passed + watch.release() == data


@pytest.mark.parametrize(
    ("names", "clear"),
    [
        ([], True),
        ([b"\0\x0c\0\0\x09bank.test"], True),
        ([b"\0\x18\0\0\x09bank.test\0\0\x09evil.test"], False),
        ([b"\0\x0c\0\0\x09bank:test"], False),
    ],
)
def test_a_hello_names_its_host_in_one_way(names: list[bytes], clear: bool) -> None:
    """A second name, or one that cannot be read, may be what a server goes by; a second list is refused before."""
    read = HelloReader(65536, 64).feed(built(b"\x13\x01", *((0, one) for one in names)))
    assert read is not None
    assert names_one(read) is clear
