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
from hsm.wire import admin, frames, member, worker
from hsm.wire.admin import (
    Admit,
    CertificateStatus,
    GroupStatus,
    Info,
    InfoReport,
    ListenerStatus,
    MemberStatus,
    Reload,
    Reset,
    Status,
    StatusReport,
    Told,
    WorkerStatus,
)
from hsm.wire.frames import MAX_FRAME, Answer, Call, Cancel, Codec, Decrypted, Done, Fault, Frame, Ready
from hsm.wire.member import (
    Begin,
    Decrypt,
    Describe,
    Generate,
    Initialise,
    Inspect,
    Inspected,
    KeyFound,
    KeysFound,
    LogIn,
    Open,
    Opened,
    Partition,
    Ping,
    Selector,
    Sign,
    Signature,
    Slot,
    Vital,
    worrying_flags,
)
from hsm.wire.worker import (
    Authorities,
    Chains,
    Family,
    FindStaple,
    InboundKeys,
    InboundTerms,
    KeepStaple,
    Mint,
    Minted,
    Report,
    Reported,
    StapleFound,
    TlsDecrypt,
    TlsSign,
    TlsSigned,
)

PARTITION = Partition("tests", "0123", 7, "SafeNet", "Luna K7", "7.8", ["LOGIN_REQUIRED"], None)
FAMILY = Family("hits", "counter", "Hits", [("hits_total", {"kind": "a"}, 2.0)])
PIN, SO_PIN = "4711-pin", "0815-so-pin"
OPEN = Open(
    "p11.so",
    Selector(label="tests"),
    PIN,
    8,
    {"trust": KeyURI(object="ca", id=b"\1")},
    True,
    {"trust": b"spki"},
    5,
    0.06,
)
LOG_IN = LogIn(PIN)
INITIALISE = Initialise("p11.so", "tests", SO_PIN, PIN)
KEY = KeyFound("", b"spki", ["rsa_pkcs1_sha256"], True)
SLOT = Slot(PARTITION, ["CKM_ECDSA", "0x80000001"], 3, None, 64, 1, 2, None, 4, "Luna K7 1.0")
CERTIFICATE = CertificateStatus("trust", "CN=ca", 9.0, "00:11", "pkcs11:object=ca", "p256", ["m1"], True, {})
"""As a signer of before says it."""
MEMBER = MemberStatus("m1", "up", 1.0, "", "p11.so", "2.6", PARTITION, 1, 8, 1)
TERMS = InboundTerms({"inbound-1": ["ecdsa_secp256r1_sha256"]}, b"ticket-key-4711", 7, 3, True)
BODIES: list[Any] = [
    OPEN,
    LOG_IN,
    Begin(),
    INITIALISE,
    Sign("trust", "rsa_pkcs1_sha256", bytes(32)),
    Decrypt("inbound-1", bytes(256)),
    Generate("ca", "p256"),
    Ping(),
    Describe(),
    Inspect(),
    Mint("trust", ["example.com"], b"spki"),
    Authorities(),
    InboundKeys(),
    TlsSign("inbound-1", "ecdsa_secp256r1_sha256", bytes(32)),
    TlsDecrypt("inbound-1", bytes(256)),
    FindStaple(bytes(32), bytes(32), 150.0, False),
    KeepStaple(bytes(32), b"response"),
    Ready(),
    Report(1, 0, 2.5, ["127.0.0.1:8080"], 3, [FAMILY]),
    Status(),
    Admit("token"),
    Info(),
    Reset("m1"),
    Reload(),
    Opened("p11.so", "2.6", PARTITION, 8, {"trust": KEY}),
    Signature(b"signature", 0.1, 0.2),
    Decrypted(b"secret"),
    KEY,
    KeysFound({"trust": KEY, "untrust": KeyFound("no such key", missing=True)}),
    Vital(0.5, 7, 2, 3, 4, 0.25),
    Inspected("p11.so", "2.6", [SLOT], {7: "it does not answer"}),
    Done(),
    Minted(b"leaf", 1.0, 2.0),
    Chains({"trust": [b"ca"], "untrust": [b"ca", b"root"]}),
    TERMS,
    TlsSigned(b"signature"),
    StapleFound(b"response", "kept"),
    Reported(False, "bypass", 7),
    InfoReport({"m1": Inspected("p11.so", "2.6", [SLOT])}, {"m2": "member is down"}),
    Told(["m1: new sessions"], "later"),
    StatusReport(
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
        [WorkerStatus(0, 11, 1.0, 3)],
        [ListenerStatus("127.0.0.1:8080", 2)],
        [CERTIFICATE, msgspec.structs.replace(CERTIFICATE, kind="forward", name="trust")],
        {"hsmitm_mints": 1.0},
        GroupStatus("tokyo", "healthy", 1.0, True, 3, "fail", 2),
    ),
]
CONVERSATIONS: dict[str, Any] = {"member": member, "worker": worker, "admin": admin}
REQUESTS = {name: get_args(one.Request) for name, one in CONVERSATIONS.items()}
REPLIES = {name: get_args(one.Reply) for name, one in CONVERSATIONS.items()}
TRAVELS = [
    (name, body) for name in CONVERSATIONS for body in BODIES if isinstance(body, REQUESTS[name] + REPLIES[name])
]
each_travelling = pytest.mark.parametrize(
    ("name", "body"), TRAVELS, ids=[f"{name} {type(body).__name__}" for name, body in TRAVELS]
)

CALLS = st.builds(
    Call,
    id=st.integers(0, 2**63),
    deadline=st.floats(allow_nan=False),
    body=st.builds(Sign, st.text(), st.text(), st.binary(), st.none() | st.binary()) | st.just(Ping()),
)
ANSWERS = st.builds(
    Answer,
    id=st.integers(0, 2**63),
    body=st.builds(Signature, st.binary(), st.floats(allow_nan=False), st.floats(0, 9)) | st.just(Done()),
)
CANCELS = st.builds(Cancel, st.integers(0, 2**63))
FAULTS = st.builds(Fault, st.integers(0, 2**63), st.text(), st.text(), st.integers(0, 2**64 - 1))


def enveloped(name: str, body: Any) -> Frame:
    """The frame in which `body` travels in the conversation `name`."""
    return Answer(1, body) if isinstance(body, REPLIES[name]) else Call(1, 2.5, body)


def framed(raw: bytes) -> bytes:
    """`raw` with its length in front, whatever it is."""
    return len(raw).to_bytes(4) + raw


def decoded(name: str, data: bytes) -> list[Frame]:
    """What the right end of the conversation `name` makes of `data`: of calls and cancels, or of answers and faults."""
    codec: Codec[Any, Any] = CONVERSATIONS[name].CODEC
    try:
        return list(codec.asked().feed(data))
    except ValueError:
        return list(codec.answered().feed(data))


def test_every_body_has_an_example() -> None:
    """A new request or reply cannot be added without being tested here, nor an old one be given another tag."""
    kinds = {kind for name in CONVERSATIONS for kind in REQUESTS[name] + REPLIES[name]}
    assert {type(body) for body in BODIES} == kinds
    for body in BODIES:
        assert body.__struct_config__.tag == re.sub("(?<=.)(?=[A-Z])", "-", type(body).__name__).lower()


@each_travelling
def test_round_trip(name: str, body: Any) -> None:
    """What one process sends is what the other receives."""
    assert decoded(name, frames.encode(enveloped(name, body))) == [enveloped(name, body)]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_socket_carries_its_own_conversation_alone(name: str) -> None:
    """What a socket must not carry cannot be decoded on it: no PIN on a worker's, no mint on the command line's; and
    the end that serves takes no answers, the one that asks no calls."""
    codec = CONVERSATIONS[name].CODEC
    for body in BODIES:
        asked = isinstance(body, REQUESTS[name])
        answered = isinstance(body, REPLIES[name])
        for framer, frame, right in (
            (codec.asked(), Call(1, 2.5, body), asked),
            (codec.answered(), Answer(1, body), answered),
            (codec.asked(), Answer(1, body), False),
            (codec.answered(), Call(1, 2.5, body), False),
        ):
            if right:
                assert list(framer.feed(frames.encode(frame))) == [frame]
            else:
                with pytest.raises(ValueError, match="not a frame of ours"):
                    list(framer.feed(frames.encode(frame)))
    with pytest.raises(ValueError, match="not a frame of ours"):
        list(codec.asked().feed(frames.encode(Fault(1, "RefusedError", "no"))))
    with pytest.raises(ValueError, match="not a frame of ours"):
        list(codec.answered().feed(frames.encode(Cancel(1))))


def test_what_a_worker_can_say() -> None:
    """The words of a worker that is taken over, one by one: another one is a decision that somebody must have made."""
    said = {kind.__name__ for kind in REQUESTS["worker"]}
    key = {"Mint", "Authorities", "InboundKeys", "TlsSign", "TlsDecrypt", "Ready"}  # all that comes to a key
    assert said == key | {"FindStaple", "KeepStaple", "Report"}


@given(st.booleans(), st.data())
def test_frames_do_not_depend_on_how_a_socket_cuts_them(asking: bool, data: st.DataObject) -> None:
    """However the bytes arrive, the same frames come out, each as soon as it is complete and none before."""
    sent = data.draw(st.lists(CALLS | CANCELS if asking else ANSWERS | FAULTS, max_size=5))
    stream = b"".join(map(frames.encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    framer: Any = member.CODEC.asked() if asking else member.CODEC.answered()
    ends = [len(frames.encode(frame)) for frame in sent]
    received: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += framer.feed(stream[start:end])
        assert len(received) == sum(sum(ends[: count + 1]) <= end for count in range(len(ends)))
    assert received == sent


@each_travelling
def test_a_field_more_is_ignored(name: str, body: Any) -> None:
    """A newer process may send a field more in the body and in the envelope; an older one understands the rest."""
    raw = msgspec.msgpack.decode(frames.encode(enveloped(name, body))[4:])
    raw["body"].append({"newer": [1, 2, 3]})
    raw["newer"] = {"than": "us"}
    assert decoded(name, framed(msgspec.msgpack.encode(raw))) == [enveloped(name, body)]


@pytest.mark.parametrize(
    ("name", "raw", "body"),
    [
        ("member", ["sign", "trust", "rsa_pkcs1_sha256", bytes(32)], Sign("trust", "rsa_pkcs1_sha256", bytes(32))),
        ("member", ["open", "p11.so", ["tests"], None, 8, {}], Open("p11.so", Selector("tests"), None, 8, {})),
        ("admin", ["reset"], Reset()),
    ],
    ids=["sign", "open", "reset"],
)
def test_a_field_less_has_its_default(name: str, raw: list[object], body: Any) -> None:
    """An older process need not send what it does not know of."""
    frame = {"t": "call", "id": 1, "deadline": 2.5, "body": raw}
    assert decoded(name, framed(msgspec.msgpack.encode(frame))) == [Call(1, 2.5, body)]


def test_a_signer_of_before_is_understood() -> None:
    """A status without a group, with members and certificates that tell less and without an error's code, is shown as
    far as it goes."""
    certificate = dict(zip(CERTIFICATE.__struct_fields__[:9], msgspec.structs.astuple(CERTIFICATE), strict=False))
    status = dict(zip(MEMBER.__struct_fields__[:10], msgspec.structs.astuple(MEMBER), strict=False))
    raw = {"t": "answer", "id": 1, "body": ["status-report", [status], [], [], [certificate], {}]}
    (answer,) = decoded("admin", framed(msgspec.msgpack.encode(raw)))
    assert answer == Answer(1, StatusReport([MEMBER], [], [], [CERTIFICATE], {}, GroupStatus()))
    fault = {"t": "fault", "id": 1, "kind": "MemberLostError", "message": "gone"}
    assert decoded("admin", framed(msgspec.msgpack.encode(fault))) == [Fault(1, "MemberLostError", "gone", 0)]


def test_a_signer_of_before_keeps_no_staples() -> None:
    """A worker does not ask a signer for what that one cannot decode: it would end the connection."""
    raw = {"t": "answer", "id": 1, "body": ["inbound-terms", {}, bytes(64), 7]}
    (answer,) = decoded("worker", framed(msgspec.msgpack.encode(raw)))
    assert isinstance(answer, Answer)
    assert not answer.body.keeps_staples


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("member", {"t": "shout", "id": 1, "deadline": 2.5, "body": ["ping"]}),
        ("member", {"id": 1, "deadline": 2.5, "body": ["ping"]}),
        ("member", {"t": "call", "id": 1, "deadline": 2.5, "body": ["explode"]}),
        ("member", {"t": "call", "id": 1, "deadline": 2.5, "body": ["done"]}),
        ("member", {"t": "call", "id": 1, "deadline": 2.5, "body": []}),
        ("member", {"t": "call", "id": 1, "deadline": 2.5}),
        ("member", {"t": "call", "id": "1", "deadline": 2.5, "body": ["ping"]}),
        ("member", {"t": "answer", "id": 1, "body": ["ping"]}),
        ("member", {"t": "call", "id": 1, "deadline": 2.5, "body": ["sign", "trust", "rsa_pkcs1_sha256"]}),
        ("worker", {"t": "call", "id": 1, "deadline": 2.5, "body": ["mint", "anybody", ["a.example"], b"spki"]}),
        ("worker", {"t": "call", "id": 1, "deadline": 2.5, "body": ["mint", "trust", "a.example", b"spki"]}),
        ("member", ["call", 1, 2.5, ["ping"]]),
        ("member", None),
    ],
)
def test_refuses_what_is_no_frame(name: str, frame: object) -> None:
    """An unknown tag, a missing field or a value of another type ends the connection instead of being guessed at."""
    with pytest.raises(ValueError, match="not a frame of ours"):
        decoded(name, framed(msgspec.msgpack.encode(frame)))


@given(st.sampled_from(list(CONVERSATIONS)), st.binary(max_size=200))
def test_garbage_is_a_value_error(name: str, raw: bytes) -> None:
    """Bytes that another program sent are refused in the one way that the caller handles."""
    with pytest.raises(ValueError, match=r"."):
        decoded(name, framed(raw))


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
        decoded("worker", framed(raw))


@pytest.mark.parametrize("tag", ["x" * 900_000, "a\n2026-01-01 INFO minted names=bank.example", "\x1b[2Jé"])
def test_what_is_told_of_a_bad_frame_is_one_short_line(tag: str) -> None:
    """A worker that is taken over writes neither long lines into the signer's log nor lines of its own making."""
    raw = framed(msgspec.msgpack.encode({"t": "call", "id": 1, "deadline": 2.5, "body": [tag]}))
    with pytest.raises(ValueError, match="not a frame of ours") as caught:
        list(worker.CODEC.asked().feed(raw))
    told = str(caught.value)
    assert len(told) < 1000
    assert told.isascii()
    assert told.isprintable()


def test_refuses_an_oversize_length_at_once() -> None:
    """A length above the limit is refused before a byte of the frame is waited for or kept."""
    framer = worker.CODEC.asked()
    assert list(framer.feed(MAX_FRAME.to_bytes(4))) == []
    with pytest.raises(ValueError, match=f"a frame of {MAX_FRAME + 1} bytes; at most {MAX_FRAME}"):
        list(worker.CODEC.asked().feed((MAX_FRAME + 1).to_bytes(4)))
    with pytest.raises(ValueError, match="at most"):
        list(worker.CODEC.asked().feed(b"GET / HTTP/1.1\r\n"))


def test_the_largest_frame_travels_and_a_larger_one_is_not_sent() -> None:
    """A frame of exactly the limit arrives; one byte more is an error where it is made, not at the peer."""

    def fault(size: int) -> Fault:
        return Fault(1, "RefusedError", "x" * size)

    room = MAX_FRAME - (len(frames.encode(fault(1 << 16))) - 4 - (1 << 16))
    assert list(worker.CODEC.answered().feed(frames.encode(fault(room)))) == [fault(room)]
    with pytest.raises(ValueError, match=f"a frame of {MAX_FRAME + 1} bytes"):
        frames.encode(fault(room + 1))


@pytest.mark.parametrize(
    "show", [repr, str, "{}".format, "%r".__mod__, pretty_repr], ids=["repr", "str", "format", "%", "rich"]
)
@pytest.mark.parametrize("body", [OPEN, LOG_IN, INITIALISE], ids=["Open", "LogIn", "Initialise"])
def test_no_text_of_a_frame_has_a_pin(body: Any, show: Any) -> None:
    """However a frame gets into a log or a traceback, its PINs do not."""
    for one in (body, (body,), Call(1, 2.5, body)):
        text = show((one,))
        assert type(body).__name__ in text
        assert "p11.so" in text or body is LOG_IN
        assert PIN not in text
        assert SO_PIN not in text


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%r".__mod__, pretty_repr])
def test_no_text_of_a_frame_has_the_ticket_key(show: Any) -> None:
    """However the terms of inbound keys get into a log or a traceback, the ticket key does not."""
    for one in (TERMS, Answer(1, TERMS)):
        text = show((one,))
        assert "InboundTerms" in text
        assert TERMS.ticket_key.decode() not in text


FAMILY_OF_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HsmitmError)]


@pytest.mark.parametrize("kind", [kind for kind in FAMILY_OF_ERRORS if kind is not HsmitmError])
def test_an_error_arrives_as_what_it_is(kind: type[HsmitmError]) -> None:
    """What the caller does next depends on the class and the code of an error: both cross, and its words."""
    (fault,) = worker.CODEC.answered().feed(frames.encode(frames.fault(7, kind("it broke", 0x80000123))))
    assert isinstance(fault, Fault)
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
        (Selector(label="p1"), "label 'p1'"),
        (Selector(serial="0123"), "serial '0123'"),
        (Selector(slot=0), "slot 0"),
    ],
)
def test_selector_in_words(selector: Selector, text: str) -> None:
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
    assert worrying_flags(msgspec.structs.replace(PARTITION, flags=flags)) == worrying
