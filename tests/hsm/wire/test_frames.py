"""Frames between processes."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from hsm import errors
from hsm.errors import HsmitmError, from_wire
from hsm.uri import KeyURI
from hsm.wire import frames as wire

PARTITION = wire.Partition("tests", "0123", 7, "SafeNet", "Luna K7", "7.8", ["LOGIN_REQUIRED"], None)
FAMILY = wire.Family("hits", "counter", "Hits", [("hits_total", {"kind": "a"}, 2.0)])
PIN, SO_PIN = "4711-pin", "0815-so-pin"
OPEN = wire.Open(
    "p11.so",
    wire.Selector(label="tests"),
    PIN,
    8,
    {"trust": KeyURI(object="ca", id=b"\1")},
    True,
    {"trust": b"spki"},
    5,
    0.06,
)
INITIALISE = wire.Initialise("p11.so", "tests", SO_PIN, PIN)
KEY = wire.KeyFound("", b"spki", ["rsa_pkcs1_sha256"], True)
SLOT = wire.Slot(PARTITION, ["CKM_ECDSA", "0x80000001"], 3, None, 64, 1, 2, None, 4, "Luna K7 1.0")
MEMBER = wire.MemberStatus("m1", "up", 1.0, "", "p11.so", "2.6", PARTITION, 1, 8, 1)
TERMS = wire.InboundTerms({"inbound-1": ["ecdsa_secp256r1_sha256"]}, b"ticket-key-4711", 7)
BODIES: list[Any] = [
    OPEN,
    INITIALISE,
    wire.Sign("trust", "rsa_pkcs1_sha256", bytes(32)),
    wire.Decrypt("inbound-1", bytes(256)),
    wire.Generate("ca", "p256"),
    wire.Ping(),
    wire.Describe(),
    wire.Inspect(),
    wire.Mint("trust", ["example.com"], b"spki"),
    wire.Authorities(),
    wire.InboundKeys(),
    wire.TlsSign("inbound-1", "ecdsa_secp256r1_sha256", bytes(32)),
    wire.TlsDecrypt("inbound-1", bytes(256)),
    wire.Ready(),
    wire.Report(1, 0, 2.5, ["127.0.0.1:8080"], 3, [FAMILY]),
    wire.Status(),
    wire.Info(),
    wire.Reset("m1"),
    wire.Reload(),
    wire.Opened("p11.so", "2.6", PARTITION, 8, {"trust": KEY}),
    wire.Signature(b"signature", 0.1, 0.2),
    wire.Decrypted(b"secret"),
    KEY,
    wire.KeysFound({"trust": KEY, "untrust": wire.KeyFound("no such key", missing=True)}),
    wire.Vital(0.5, 7, 2, 3),
    wire.Inspected("p11.so", "2.6", [SLOT]),
    wire.Done(),
    wire.Minted(b"leaf", 1.0, 2.0),
    wire.Chains({"trust": [b"ca"], "untrust": [b"ca", b"root"]}),
    TERMS,
    wire.TlsSigned(b"signature"),
    wire.Reported(False, "bypass", 7),
    wire.InfoReport({"m1": wire.Inspected("p11.so", "2.6", [SLOT])}, {"m2": "member is down"}),
    wire.Told(["m1: new sessions"]),
    wire.StatusReport(
        [
            MEMBER,
            msgspec.structs.replace(
                MEMBER,
                pid=7,
                last_error="gone",
                last_error_at=3.0,
                attempts=2,
                next_attempt=4.0,
                latency_ms=1.5,
                keys={"trust": "no such key"},
            ),
        ],
        [wire.WorkerStatus(0, 11, 1.0, 3)],
        [wire.ListenerStatus("127.0.0.1:8080", 2)],
        [wire.CertificateStatus("trust", "CN=ca", 9.0, "00:11", "pkcs11:object=ca", "p256", ["m1"], True, {})],
        {"hsmitm_mints": 1.0},
        wire.GroupStatus("tokyo", "healthy", 1.0, True, 3, "fail", 2),
    ),
]
REPLIES = get_args(wire.Reply)
each_body = pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)

CALLS = st.builds(
    wire.Call,
    id=st.integers(0, 2**63),
    deadline=st.floats(allow_nan=False),
    body=st.builds(wire.Sign, st.text(), st.text(), st.binary(), st.none() | st.binary())
    | st.builds(wire.Mint, st.sampled_from(["trust", "untrust"]), st.lists(st.text()), st.binary())
    | st.just(wire.Ping()),
)
ANSWERS = st.builds(
    wire.Answer,
    id=st.integers(0, 2**63),
    body=st.builds(wire.Signature, st.binary(), st.floats(allow_nan=False), st.floats(0, 9)) | st.just(wire.Done()),
)
CANCELS = st.builds(wire.Cancel, st.integers(0, 2**63))
FAULTS = st.builds(wire.Fault, st.integers(0, 2**63), st.text(), st.text(), st.integers(0, 2**64 - 1))


def enveloped(body: Any) -> wire.Frame:
    """The frame in which `body` travels."""
    return wire.Answer(1, body) if isinstance(body, REPLIES) else wire.Call(1, 2.5, body)


def framed(raw: bytes) -> bytes:
    """`raw` with its length in front, whatever it is."""
    return len(raw).to_bytes(4) + raw


def decoded(raw: bytes) -> list[wire.Frame]:
    """What a fresh Framer makes of one frame with the content `raw`."""
    return list(wire.Framer().feed(framed(raw)))


def test_every_body_has_an_example() -> None:
    """A new request or reply cannot be added without being tested here, nor an old one be given another tag."""
    assert {type(body) for body in BODIES} == {*get_args(wire.Request), *REPLIES}
    for body in BODIES:
        assert body.__struct_config__.tag == re.sub("(?<=.)(?=[A-Z])", "-", type(body).__name__).lower()


@each_body
def test_round_trip(body: Any) -> None:
    """What one process sends is what the other receives."""
    assert list(wire.Framer().feed(wire.encode(enveloped(body)))) == [enveloped(body)]


@given(st.lists(CALLS | CANCELS | ANSWERS | FAULTS, max_size=5), st.data())
def test_frames_do_not_depend_on_how_a_socket_cuts_them(frames: list[wire.Frame], data: st.DataObject) -> None:
    """However the bytes arrive, the same frames come out, each as soon as it is complete and none before."""
    stream = b"".join(map(wire.encode, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    framer, ends = wire.Framer(), [len(wire.encode(frame)) for frame in frames]
    received: list[wire.Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += framer.feed(stream[start:end])
        assert len(received) == sum(sum(ends[: count + 1]) <= end for count in range(len(ends)))
    assert received == frames


@each_body
def test_a_field_more_is_ignored(body: Any) -> None:
    """A newer process may send a field more in the body and in the envelope; an older one understands the rest."""
    raw = msgspec.msgpack.decode(wire.encode(enveloped(body))[4:])
    raw["body"].append({"newer": [1, 2, 3]})
    raw["newer"] = {"than": "us"}
    assert decoded(msgspec.msgpack.encode(raw)) == [enveloped(body)]


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (["sign", "trust", "rsa_pkcs1_sha256", bytes(32)], wire.Sign("trust", "rsa_pkcs1_sha256", bytes(32))),
        (["open", "p11.so", ["tests"], None, 8, {}], wire.Open("p11.so", wire.Selector("tests"), None, 8, {})),
        (["reset"], wire.Reset()),
    ],
    ids=["sign", "open", "reset"],
)
def test_a_field_less_has_its_default(raw: list[object], body: wire.Request) -> None:
    """An older process need not send what it does not know of."""
    frame = {"t": "call", "id": 1, "deadline": 2.5, "body": raw}
    assert decoded(msgspec.msgpack.encode(frame)) == [wire.Call(1, 2.5, body)]


def test_a_signer_of_before_is_understood() -> None:
    """A status without a group, with members that tell less and without an error's code, is shown as far as it goes."""
    member = dict(zip(MEMBER.__struct_fields__[:10], msgspec.structs.astuple(MEMBER), strict=False))
    raw = {"t": "answer", "id": 1, "body": ["status-report", [member], [], [], [], {}]}
    (answer,) = decoded(msgspec.msgpack.encode(raw))
    assert answer == wire.Answer(1, wire.StatusReport([MEMBER], [], [], [], {}, wire.GroupStatus()))
    fault = {"t": "fault", "id": 1, "kind": "MemberLostError", "message": "gone"}
    assert decoded(msgspec.msgpack.encode(fault)) == [wire.Fault(1, "MemberLostError", "gone", 0)]


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "shout", "id": 1, "deadline": 2.5, "body": ["ping"]},
        {"id": 1, "deadline": 2.5, "body": ["ping"]},
        {"t": "call", "id": 1, "deadline": 2.5, "body": ["explode"]},
        {"t": "call", "id": 1, "deadline": 2.5, "body": ["done"]},
        {"t": "call", "id": 1, "deadline": 2.5, "body": []},
        {"t": "call", "id": 1, "deadline": 2.5},
        {"t": "call", "id": "1", "deadline": 2.5, "body": ["ping"]},
        {"t": "answer", "id": 1, "body": ["ping"]},
        {"t": "call", "id": 1, "deadline": 2.5, "body": ["sign", "trust", "rsa_pkcs1_sha256"]},
        {"t": "call", "id": 1, "deadline": 2.5, "body": ["mint", "anybody", ["a.example"], b"spki"]},
        {"t": "call", "id": 1, "deadline": 2.5, "body": ["mint", "trust", "a.example", b"spki"]},
        ["call", 1, 2.5, ["ping"]],
        None,
    ],
)
def test_refuses_what_is_no_frame(frame: object) -> None:
    """An unknown tag, a missing field or a value of another type ends the connection instead of being guessed at."""
    with pytest.raises(ValueError, match="not a frame of ours"):
        decoded(msgspec.msgpack.encode(frame))


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error(raw: bytes) -> None:
    """Bytes that another program sent are refused in the one way that the caller handles."""
    with pytest.raises(ValueError, match=r"."):
        decoded(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x84\xa1t\xa5fault\xa2id\x01\xa4kind\xa1\xff\xa7message\xa0",
        b"\x82\xa1t\xa4call\xa5newer" + b"\x91" * 100_000 + b"\xc0",
    ],
    ids=["not UTF-8", "nested deeply"],
)
def test_hostile_garbage_is_a_value_error(raw: bytes) -> None:
    """Bytes made to upset a decoder are refused in the same way."""
    with pytest.raises(ValueError, match=r"."):
        decoded(raw)


def test_refuses_an_oversize_length_at_once() -> None:
    """A length above the limit is refused before a byte of the frame is waited for or kept."""
    framer = wire.Framer()
    assert list(framer.feed(wire.MAX_FRAME.to_bytes(4))) == []
    with pytest.raises(ValueError, match=f"a frame of {wire.MAX_FRAME + 1} bytes; at most {wire.MAX_FRAME}"):
        list(wire.Framer().feed((wire.MAX_FRAME + 1).to_bytes(4)))
    with pytest.raises(ValueError, match="at most"):
        list(wire.Framer().feed(b"GET / HTTP/1.1\r\n"))


def test_the_largest_frame_travels_and_a_larger_one_is_not_sent() -> None:
    """A frame of exactly the limit arrives; one byte more is an error where it is made, not at the peer."""

    def fault(size: int) -> wire.Fault:
        return wire.Fault(1, "RefusedError", "x" * size)

    room = wire.MAX_FRAME - (len(wire.encode(fault(1 << 16))) - 4 - (1 << 16))
    assert list(wire.Framer().feed(wire.encode(fault(room)))) == [fault(room)]
    with pytest.raises(ValueError, match=f"a frame of {wire.MAX_FRAME + 1} bytes"):
        wire.encode(fault(room + 1))


@pytest.mark.parametrize(
    "show", [repr, str, "{}".format, "%r".__mod__, pretty_repr], ids=["repr", "str", "format", "%", "rich"]
)
@pytest.mark.parametrize("body", [OPEN, INITIALISE], ids=["Open", "Initialise"])
def test_no_text_of_a_frame_has_a_pin(body: Any, show: Any) -> None:
    """However a frame gets into a log or a traceback, its PINs do not."""
    for one in (body, (body,), wire.Call(1, 2.5, body)):
        text = show((one,))
        assert type(body).__name__ in text
        assert "p11.so" in text
        assert PIN not in text
        assert SO_PIN not in text


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%r".__mod__, pretty_repr])
def test_no_text_of_a_frame_has_the_ticket_key(show: Any) -> None:
    """However the terms of inbound keys get into a log or a traceback, the ticket key does not."""
    for one in (TERMS, wire.Answer(1, TERMS)):
        text = show((one,))
        assert "InboundTerms" in text
        assert TERMS.ticket_key.decode() not in text


FAMILY_OF_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HsmitmError)]


@pytest.mark.parametrize("kind", [kind for kind in FAMILY_OF_ERRORS if kind is not HsmitmError])
def test_an_error_arrives_as_what_it_is(kind: type[HsmitmError]) -> None:
    """What the caller does next depends on the class and the code of an error: both cross, and its words."""
    (fault,) = wire.Framer().feed(wire.encode(wire.fault(7, kind("it broke", 0x80000123))))
    assert isinstance(fault, wire.Fault)
    assert fault.id == 7
    arrived = from_wire(fault.kind, fault.message, fault.code)
    assert (type(arrived), str(arrived), arrived.code) == (kind, "it broke", 0x80000123)


@pytest.mark.parametrize("kind", ["SomethingOfANewerPeer", "HsmitmError", "KeyMissingError", "SystemExit", ""])
def test_an_unknown_error_is_a_refusal(kind: str) -> None:
    """An error that a newer process has, or that is none of the family, is never retried."""
    arrived = from_wire(kind, "it broke", 5)
    assert (type(arrived), str(arrived), arrived.code) == (errors.RefusedError, "it broke", 5)


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (wire.Selector(label="p1"), "label 'p1'"),
        (wire.Selector(serial="0123"), "serial '0123'"),
        (wire.Selector(slot=0), "slot 0"),
    ],
)
def test_selector_in_words(selector: wire.Selector, text: str) -> None:
    """A message names a partition the way the configuration does."""
    assert str(selector) == text


@pytest.mark.parametrize(
    ("flags", "worrying"),
    [
        (["LOGIN_REQUIRED", "TOKEN_INITIALIZED", "USER_PIN_INITIALIZED"], []),
        (["USER_PIN_COUNT_LOW", "SO_PIN_LOCKED", "USER_PIN_INITIALIZED"], ["USER_PIN_COUNT_LOW"]),
        (["USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"], ["USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"]),
    ],
)
def test_worrying_flags(flags: list[str], worrying: list[str]) -> None:
    """Of a token's flags an operator is shown those that say its PIN is running out of tries."""
    assert wire.worrying_flags(msgspec.structs.replace(PARTITION, flags=flags)) == worrying
