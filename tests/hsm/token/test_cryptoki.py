"""A module's own function list, against real SoftHSM: in a process of its own, as a member uses it."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pkcs11
import pytest

from hsm.token.cryptoki import FunctionList, TokenInfo
from hsm.token.module import Module
from hsm.wire.member import Selector
from tests.faults.hsm_server import CLIENT
from tests.softhsm import MODULE, PIN, Store

ROOT = Path(__file__).parents[3]
COUNTS = (
    "flags",
    "max_sessions",
    "sessions",
    "max_rw_sessions",
    "rw_sessions",
    "max_pin",
    "min_pin",
    "total_public_memory",
    "free_public_memory",
    "total_private_memory",
    "free_private_memory",
)
"""The numbers of CK_TOKEN_INFO in the order of PKCS#11 v3.0 section 3.2."""
UNAVAILABLE = 2 ** (8 * ctypes.sizeof(ctypes.c_ulong)) - 1


class Told(msgspec.Struct):
    """What SoftHSM says of a token, and what python-pkcs11 reads of it."""

    names: str
    counts: dict[str, int]
    versions: bytes
    label: str
    serial: str
    manufacturer: str
    model: str
    flags: int
    hardware: tuple[int, int]
    firmware: tuple[int, int]
    no_such_slot: bool
    slots: list[int]
    again: int


def tell(label: str) -> None:
    """In a child: read a token's information twice over; initialise again; print a `Told`."""
    module = Module(MODULE)
    functions = FunctionList.of(MODULE)
    assert functions is not None
    slots = functions.slots()
    assert isinstance(slots, list)
    there = module.token(Selector(label=label))
    there.log_in(PIN)
    token = there._token
    info = functions.token_info(there.info.slot)
    assert info is not None
    raw = bytes(info)
    told = Told(
        names=raw[:96].decode(),
        counts={name: getattr(info, name) for name in COUNTS},
        versions=raw[TokenInfo.versions_and_time.offset :][:4],
        label=token.label,
        serial=token.serial.decode(),
        manufacturer=token.manufacturer_id,
        model=token.model,
        flags=int(token.flags),
        hardware=token.hardware_version,
        firmware=token.firmware_version,
        no_such_slot=functions.token_info(there.info.slot + 1000) is None,
        slots=slots,
        again=functions.initialise_for_threads(),
    )
    sys.stdout.write(msgspec.json.encode(told).decode())
    sys.stdout.flush()
    os._exit(0)


@pytest.fixture(scope="module")
def told(store: Store) -> Told:
    """What a child was told."""
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; from {__name__} import tell; tell(*sys.argv[1:])", store.label],
        cwd=ROOT,
        env=os.environ | store.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    return msgspec.json.decode(child.stdout, type=Told)


def test_names_and_flags_are_where_softhsm_puts_them(told: Told) -> None:
    """A token's names, flags and versions are read where python-pkcs11 reads them."""
    fields = (told.names[:32], told.names[32:64], told.names[64:80], told.names[80:96])
    assert [field.strip() for field in fields] == [told.label, told.manufacturer, told.model, told.serial]
    assert told.counts["flags"] == told.flags
    assert told.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED
    assert tuple(told.versions) == (*told.hardware, *told.firmware)


def test_counts_are_where_softhsm_puts_them(told: Told) -> None:
    """SoftHSM names the lengths of its PINs, no limit of sessions and no memory, and just that is read."""
    assert (told.counts["max_pin"], told.counts["min_pin"]) == (255, 4)
    assert (told.counts["max_sessions"], told.counts["max_rw_sessions"]) == (0, 0)
    unknown = [name for name in COUNTS if name.endswith("_memory") or name in ("sessions", "rw_sessions")]
    assert {told.counts[name] for name in unknown} == {UNAVAILABLE}


@pytest.mark.parametrize("number", [0, 2**64 - 1, 2**32 - 1, 2**64 - 2, 2**63, 2**31 - 1, 2**31])
def test_a_limit_that_no_token_has_is_none(number: int) -> None:
    """CK_EFFECTIVELY_INFINITE, CK_UNAVAILABLE_INFORMATION, -2, and what else is more than any token has: no limit."""
    assert TokenInfo(max_sessions=number).limit("max_sessions") is None


def test_a_number_that_makes_no_sense_is_not_told() -> None:
    """A count below zero is not told; a memory of four gigabytes is."""
    assert TokenInfo(sessions=2**64 - 2).told("sessions") is None
    assert TokenInfo(free_public_memory=2**32).told("free_public_memory") == 2**32
    assert TokenInfo(max_sessions=1024).limit("max_sessions") == 1024


def test_a_slot_without_an_answer(told: Told) -> None:
    """A slot that the module does not know tells nothing, and that is no error."""
    assert told.no_such_slot


def test_lists_the_slots(told: Told) -> None:
    """SoftHSM shows the slot of the partition, and one for the next that is made."""
    assert len(told.slots) == 2


def test_a_module_is_initialised_already(told: Told) -> None:
    """To initialise a module a second time changes nothing, and says so (CKR_CRYPTOKI_ALREADY_INITIALIZED)."""
    assert told.again == 0x191


def test_a_library_with_another_list_at_each_call() -> None:
    """Of p11-kit, whose every function list is a connection of its own, none is taken for the one in use."""
    assert CLIENT, "p11-kit is not installed: run ./dev setup"
    assert FunctionList.of(CLIENT) is None
    assert FunctionList.of(MODULE) is not None


@pytest.mark.parametrize("address", [None, 0, 8, 2**47 - 4096])
def test_what_is_no_function_list_is_not_called(address: int | None) -> None:
    """An address where nothing can be read, or where something else is, ends no process."""
    assert FunctionList.found_at(address) is None
    other = ctypes.create_string_buffer(1000)
    assert FunctionList.found_at(ctypes.addressof(other)) is None


def test_every_number_has_its_own_place() -> None:
    """Each number of a token is read from its own place in the order of the standard, and none is skipped."""
    values = range(101, 101 + len(COUNTS))
    raw = struct.pack(f"@32s32s16s16s{len(COUNTS)}L2B2B16s", b"", b"", b"", b"", *values, 1, 2, 3, 4, b"2024")
    raw = raw.ljust(ctypes.sizeof(TokenInfo), b"\0")
    assert len(raw) - ctypes.sizeof(ctypes.c_ulong) < 96 + 20 + len(COUNTS) * ctypes.sizeof(ctypes.c_ulong) <= len(raw)
    info = TokenInfo.from_buffer_copy(raw)
    assert tuple(getattr(info, name) for name in COUNTS) == tuple(values)


@pytest.mark.parametrize(
    ("value", "told", "limit"),
    [
        (0, 0, None),
        (1, 1, 1),
        (4096, 4096, 4096),
        (2**32 - 2, 2**32 - 2, None),
        (2**32 - 1, None, None),
        (2**64 - 1, None, None),
    ],
)
def test_what_a_number_means(value: int, told: int | None, limit: int | None) -> None:
    """No limit and an unknown number are told from a real one; zero sessions in use is a number like any other."""
    info = TokenInfo(sessions=value, max_sessions=value)
    assert info.told("sessions") == told
    assert info.limit("max_sessions") == limit
