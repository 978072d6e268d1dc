"""A library is initialised once, with locks, and its slots are asked one by one: real modules, each in a process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pkcs11
import pytest

from bench.rig.faulty_module import FaultyModule
from hsm.errors import MemberLostError, MisconfiguredError
from hsm.token.library import Library
from tests.faults.hsm_server import CLIENT, HsmServer
from tests.hsm.token.children import run_child
from tests.softhsm import MODULE, Store


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyModule:
    """A module in front of SoftHSM that counts calls."""
    return FaultyModule(tmp_path / "faulty")


def open_library(path: str) -> None:
    """In a child: load the library; print the slots with a token, and whether a list of ours is lent."""
    library = Library(path)
    slots = [library.slot(number).slot_id for number in library.slot_numbers()]
    sys.stdout.write(msgspec.json.encode((slots, bool(library._lent))).decode())
    sys.stdout.flush()
    os._exit(0)


def test_a_module_is_initialised_once(store: Store, faulty: FaultyModule) -> None:
    """C_Initialize is called once for the life of a process, and C_Finalize never: a network HSM's client connects
    once, and tpm2-pkcs11 keeps the locks that it would drop at a first call without."""
    child = run_child(open_library, store, str(faulty.path), environment=faulty.environment(MODULE))
    assert (child.returncode, child.stderr) == (0, "")
    slots, lent = msgspec.json.decode(child.stdout)
    assert len(slots) == 2
    assert lent, "python-pkcs11 does not hold its function list where it did; see Library._lend"
    assert (faulty.calls("C_Initialize"), faulty.calls("C_Finalize")) == (1, 0)


@pytest.fixture
def server(store: Store, faulty: FaultyModule) -> Iterator[HsmServer]:
    """SoftHSM behind a socket."""
    with tempfile.TemporaryDirectory() as sockets:
        server = HsmServer(store, faulty, Path(sockets) / "m1")
        server.start()
        try:
            yield server
        finally:
            server.kill()


def test_p11_kit_has_nothing_to_complain_of(store: Store, server: HsmServer) -> None:
    """p11-kit's client is initialised its own way, and prints no warning."""
    child = run_child(open_library, store, CLIENT, environment=server.client["environment"])
    assert (child.returncode, child.stderr) == (0, "")
    slots, lent = msgspec.json.decode(child.stdout)
    assert len(slots) == 2
    assert lent


def load_error(path: str) -> None:
    """In a child: print what loading the library raises, and its message."""
    try:
        Library(path)
    except (MemberLostError, MisconfiguredError, pkcs11.PKCS11Error) as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")
        sys.stdout.flush()
    os._exit(0)


@pytest.mark.parametrize(
    ("code", "kind"), [(0x05, MemberLostError), (0x30, MemberLostError), (0x0A, MisconfiguredError)]
)
def test_what_may_pass_is_told_from_what_does_not(
    store: Store, faulty: FaultyModule, code: int, kind: type[Exception]
) -> None:
    """A service that is not there yet is tried again, whatever the library calls it; one that cannot lock for threads
    waits for an operator."""
    with faulty.fault(f"C_Initialize rv {code:#x}"):
        child = run_child(load_error, store, str(faulty.path), environment=faulty.environment(MODULE))
    assert child.stdout.startswith(f"{kind.__name__}: ")
    assert f"({code:#x}) at C_Initialize" in child.stdout


def test_a_library_that_wants_arguments_of_its_own(store: Store, faulty: FaultyModule) -> None:
    """NSS's softokn wants to be told at C_Initialize where its database is: its operator reads how that is done."""
    with faulty.fault("C_Initialize rv 0x07"):
        child = run_child(load_error, store, str(faulty.path), environment=faulty.environment(MODULE))
    assert child.stdout.startswith("MisconfiguredError: ")
    assert child.stdout.endswith("load it by p11-kit's proxy, with x-init-reserved")
