"""Members on copies of one partition, a group of them, load on it, and faults: for tests of the session layer."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry

from hsm.errors import HsmitmError
from hsm.group.group import Group
from hsm.member.key import Key
from hsm.member.member import Member, Peers
from hsm.member.settings import Failover, MemberSettings
from hsm.member.states import State
from hsm.schemes import PublicKey, certificate_scheme
from hsm.secrets.refusals import Refusals
from hsm.uri import KeyURI
from tests.cas import public_key
from tests.softhsm import Store, in_s, make_store
from tests.waiting import until

MESSAGE = b"message"


# --- partitions -------------------------------------------------------------------------------------------------------


async def make_stores(directory: Path, number: int = 3) -> list[Store]:
    """`number` HSMs with the same partition: keys trust (RSA-2048) and untrust (P-256), one serial number."""
    first = await make_store(directory / "1", {"trust": "rsa-2048", "untrust": "p256"})
    return [first, *(copy_of(first, directory / str(place)) for place in range(2, number + 1))]


def copy_of(store: Store, directory: Path) -> Store:
    """Another HSM with the same partition: the same serial number, PIN and keys."""
    copy = Store(directory, store.label, store.keys)
    shutil.copytree(store.directory / "tokens", directory / "tokens")
    text = (store.directory / "softhsm2.conf").read_text()
    (directory / "softhsm2.conf").write_text(text.replace(str(store.directory), str(directory)))
    shutil.copy2(store.pin_file, copy.pin_file)
    return copy


def key_of(store: Store, label: str, name: str = "", *, public: PublicKey | None = None, uri: KeyURI | None = None,
           members: frozenset[str] | None = None) -> Key:  # fmt: skip
    """The key `label` of `store`: with its own public key and URI, and for all members, unless others are given."""
    own = public or public_key(store, label)
    return Key(name or label, uri or KeyURI(object=label), own, certificate_scheme(own), members)


def keys_of(store: Store) -> dict[str, Key]:
    """Every key of `store`, by its label."""
    return {label: key_of(store, label) for label in store.keys}


def objects_of(store: Store, label: str) -> list[Path]:
    """The files of a key's two halves: SoftHSM keeps each object in one, and keys were made one after another."""
    paths = [path for path in store.directory.glob("tokens/*/*.object") if path.name != "token.object"]
    assert len(paths) == 2 * len(store.keys)
    place = 2 * list(store.keys).index(label)
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)[place : place + 2]


def note_change(store: Store) -> None:
    """Have processes that use the partition look at its files again, as SoftHSM does after a change of its own."""
    (path,) = store.directory.glob("tokens/*/generation")
    path.write_bytes((int.from_bytes(path.read_bytes()) + 1).to_bytes(8))


# --- groups -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def make_group(
    members: Sequence[Store | MemberSettings],
    failover: Failover | None = None,
    sessions: int = 2,
    *,
    keys: dict[str, Key] | None = None,
    state: Path | None = None,
    prompted: str | None = None,
    all_up: bool = True,
) -> AsyncIterator[Group]:
    """A group whose members m1, m2, ... run and are UP; settled at least, where not `all_up`.

    `keys` are those of the first store unless others are given; `state` is the directory of refused PINs, a temporary
    one otherwise; `prompted` is the PIN that a prompt got. Whatever the test does, the members' tasks end well, and
    leave no process and no descriptor.
    """
    before = leftovers()
    with tempfile.TemporaryDirectory() as temporary:
        refusals = Refusals(state or Path(temporary))
        refusals.prepare()
        stores = [one for one in members if isinstance(one, Store)]
        group = Group(keys if keys is not None else keys_of(stores[0]), CollectorRegistry(), failover)
        group.members = [
            Member(settings, group.keys_for(settings.name), refusals, group, prompted)
            for place, one in enumerate(members, 1)
            for settings in [one.settings(f"m{place}", sessions) if isinstance(one, Store) else one]
        ]
        runs = [asyncio.create_task(member.run()) for member in group.members]
        try:
            for member in group.members:
                await until(member.settled.is_set, f"{member.name} is up, or known not to be")
                assert member.state is State.UP or not all_up, f"{member.name} is {member.state}: {member.reason}"
            yield group
        finally:
            for run in runs:
                run.cancel()
            ends = await asyncio.gather(*runs, return_exceptions=True)
            await asyncio.gather(*(member.stop() for member in group.members))
        assert [end for end in ends if end is not None and not isinstance(end, asyncio.CancelledError)] == []
    await until(
        lambda: all(now <= then for now, then in zip(leftovers(), before, strict=True)),
        f"no process and no descriptor is left over but {before}",
        3,
    )


@asynccontextmanager
async def running(
    one: Store | MemberSettings, failover: Failover | None = None, *, keys: dict[str, Key] | None = None,
    state: Path | None = None, prompted: str | None = None,
) -> AsyncIterator[Member]:  # fmt: skip
    """The only member of a group, settled: up, or known not to be."""
    async with make_group([one], failover, keys=keys, state=state, prompted=prompted, all_up=False) as group:
        yield group.members[0]


def children() -> set[int]:
    """Our child processes, those too that ended and were not waited for."""
    return {int(one) for path in Path("/proc/self").glob("task/*/children") for one in path.read_text().split()}


def leftovers() -> tuple[set[int], int]:
    """What a group could leave behind: child processes, and the number of open descriptors."""
    return children(), len(list(Path("/proc/self/fd").iterdir()))


async def sign(group: Group, name: str = "untrust", message: bytes = MESSAGE, timeout_s: float = 10) -> bytes:
    """A signature by the group."""
    return await group.sign(name, message, group.keys[name].scheme.digest(message), in_s(timeout_s), "mint")


def verifies(group: Group, signature: bytes, name: str = "untrust", message: bytes = MESSAGE) -> bool:
    """Whether the certificate's key verifies the signature."""
    one = group.keys[name]
    return one.scheme.verifies(one.public, one.scheme.digest(message), signature)


def counted(group: Peers, sample: str, **labels: str) -> float:
    """A counter of the group (a member's is `member._peers`), added up over labels that are not given."""
    return sum(
        found.value
        for metric in vars(group.metrics).values()
        if hasattr(metric, "collect")
        for family in metric.collect()
        for found in family.samples
        if found.name == sample and labels.items() <= found.labels.items()
    )


def transitions(group: Peers, member: str = "") -> dict[str, float]:
    """How often `member`, or the group, made each change of state, as "before -> after"."""
    sample = "hsmitm_member_transitions_total" if member else "hsmitm_group_transitions_total"
    return {
        f"{found.labels['before']} -> {found.labels['after']}": found.value
        for metric in vars(group.metrics).values()
        if hasattr(metric, "collect")
        for family in metric.collect()
        for found in family.samples
        if found.name == sample and (not member or found.labels["member"] == member)
    }


def steps(messages: list[str], who: str) -> list[str]:
    """The changes of state of `who` ("member m1", "group") that a log tells, as "before -> after"."""
    return [line.split(": ")[1] for line in messages if line.startswith(f"{who}: ") and " -> " in line]


# --- load -------------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """Requests for all keys in turn, `rate` a second, from `tasks` tasks: as a context manager, or `run` for a number.

    A task that waits for an answer makes up for what it missed, so a stall is followed by a burst. Every signature is
    verified here once more. `latencies` are in seconds, in the order of the answers.
    """

    group: Group
    rate: float = 200.0
    tasks: int = 8
    timeout_s: float = 10.0
    latencies: list[float] = field(default_factory=list)
    errors: list[HsmitmError] = field(default_factory=list)
    unverified: int = 0

    @property
    def signed(self) -> int:
        """Requests that got a signature that verifies."""
        return len(self.latencies)

    @property
    def slowest_s(self) -> float:
        """The longest that a request took."""
        return max(self.latencies)

    async def __aenter__(self) -> Self:
        """Begin."""
        self._numbers = count()
        self._begun = time.monotonic()
        self._leave = asyncio.Event()
        self._running = [asyncio.create_task(self._task()) for _ in range(self.tasks)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the requests that were begun end."""
        self._leave.set()
        if error is not None:
            for task in self._running:
                task.cancel()
        ends = await asyncio.gather(*self._running, return_exceptions=True)
        if error is None:
            assert ends == [None] * self.tasks, ends

    async def more(self, requests: int, timeout_s: float = 10) -> None:
        """Return once that many more requests were signed."""
        goal = self.signed + requests
        await until(
            lambda: self.signed >= goal, f"{requests} more requests are signed; errors {self.errors}", timeout_s
        )

    async def _task(self) -> None:
        names = sorted(self.group.keys)
        while not self._leave.is_set():
            number = next(self._numbers)
            ahead_s = self._begun + number / self.rate - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)  # the pace of the load; nothing waits for it
            name, message = names[number % len(names)], b"%d" % number
            started = time.monotonic()
            try:
                signature = await sign(self.group, name, message, self.timeout_s)
            except HsmitmError as problem:
                self.errors.append(problem)
                continue
            self.latencies.append(time.monotonic() - started)
            self.unverified += not verifies(self.group, signature, name, message)


# --- faults -----------------------------------------------------------------------------------------------------------


def alive(process: int) -> bool:
    """Whether a process runs. One that ended may wait to be reaped by a parent that never does."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(member: Member) -> int:
    """Kill the process of a member that has one. Its pid."""
    process = member.pid
    assert process
    os.kill(process, signal.SIGKILL)
    return process


@contextmanager
def hung(process: int) -> Iterator[None]:
    """A process that does nothing, as in a call that does not return; it goes on afterwards if it is still there."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        if alive(process):
            os.kill(process, signal.SIGCONT)


@contextmanager
def key_spoilt(store: Store, label: str) -> Iterator[None]:
    """A private key whose value cannot be decrypted: SoftHSM answers its signatures with CKR_GENERAL_ERROR.

    In its file an attribute is its type (CKA_VALUE, CKA_PRIVATE_EXPONENT), its kind, its length and its value, each
    number of eight bytes; the first eight bytes of the file tell processes that have read it that it was changed.
    """
    markers = [attribute.to_bytes(8) + (3).to_bytes(8) for attribute in (0x11, 0x123)]
    (path,) = (one for one in objects_of(store, label) if any(marker in one.read_bytes() for marker in markers))
    sound, times = path.read_bytes(), path.stat()
    at = max(sound.find(marker) for marker in markers) + 16
    padding = at + 8 + int.from_bytes(sound[at : at + 8]) - 17  # of AES-CBC: one block before the last byte
    changes = int.from_bytes(sound[:8])
    spoilt = sound[8:padding] + bytes([sound[padding] ^ 0x80]) + sound[padding + 1 :]
    path.write_bytes((changes + 1).to_bytes(8) + spoilt)
    try:
        yield
    finally:
        path.write_bytes((changes + 2).to_bytes(8) + sound[8:])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # `objects_of` goes by the order of their times
