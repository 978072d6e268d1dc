"""What a worker and the signer say to each other while one of them is of the version before."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from hsm.wire.worker import InboundTerms, Reported


class _ReportedBefore(Struct, frozen=True, array_like=True, tag="reported"):
    """As of the version before."""

    in_service: bool
    unavailable: str
    generation: int = 0


class _InboundTermsBefore(Struct, frozen=True, array_like=True, tag="inbound-terms"):
    """As of the version before."""

    keys: dict[str, list[str]]
    ticket_key: bytes
    generation: int


def test_a_signer_of_before_has_one_number_for_both() -> None:
    """A worker that is newer than its signer looks again at everything whenever the signer's one number moves."""
    old = msgspec.msgpack.encode(_ReportedBefore(in_service=True, unavailable="fail", generation=7))
    told = msgspec.msgpack.decode(old, type=Reported)
    assert (told.terms, told.of_configuration) == (7, 7)
    old = msgspec.msgpack.encode(_InboundTermsBefore({}, bytes(64), 7))
    terms = msgspec.msgpack.decode(old, type=InboundTerms)
    assert (terms.terms, terms.of_configuration) == (7, 7)


def test_a_worker_of_before_finds_the_number_that_moves_with_everything() -> None:
    """A worker that is older than its signer goes on as it did."""
    new = msgspec.msgpack.encode(Reported(True, "fail", 7, 3))
    assert msgspec.msgpack.decode(new, type=_ReportedBefore).generation == 7
    new = msgspec.msgpack.encode(InboundTerms({}, bytes(64), 7, 3))
    assert msgspec.msgpack.decode(new, type=_InboundTermsBefore).generation == 7


def test_two_numbers() -> None:
    """Where both are of now, each number is its own."""
    assert Reported(True, "fail", 7, 3).of_configuration == 3
    assert InboundTerms({}, bytes(64), 7, 0).of_configuration == 0
