"""Two HSMs that fail on command, a group on them, load on the group, and a record of everything that happened.

The fixture `rig` (`three` for three members) is a `Rig`: a fresh group m1, m2 of UP members, each on a SoftHSM
partition of its own with the same keys (trust: RSA-2048, untrust: P-256), behind a fault-injecting module of its own.
`make_rig` makes one by hand, where a test wants other sessions, settings, partitions or failover rules.

    async def test_x(rig: Rig) -> None:
        async with rig.load() as load:                        # 240 requests/s, RSA and P-256 in turn
            begun = rig.now()
            with rig.hsm("m1").fault("C_Sign rv 0x30 n=5"):   # the manual is in bench/rig/faulty_module.c
                await rig.until_path("m1", ["suspect", "up"], begun)
            await load.more(100)                              # the group serves after the fault, too
        assert rig.logins("m1") == 1
        assert load.slowest_s < 0.3

On its way out of `async with`, `load` asserts that no request failed (unless `failures=True`) and, always, that no
signature was bad: each is verified with cryptography, not with the product's own check. `make_rig` asserts at its end
what holds whatever happens: every change of state was logged once and counted once, no start logged in twice, no
process and no descriptor is left over, and nothing failed internally. Times are in seconds, by the clock `rig.now()`.

Faults that several files use are context managers here; the others stand in the file of their fault.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import structs

from bench.rig.faulty_module import FaultyModule
from hsm.errors import HsmitmError
from hsm.group.group import Group
from hsm.member.key import Key
from hsm.member.member import Member
from hsm.member.settings import Failover, MemberSettings
from hsm.member.states import State
from tests.hsm.members import alive, counted, hung, keys_of, make_group, transitions
from tests.softhsm import MODULE, Store, in_s
from tests.waiting import until

LOAD = 240.0
"""Requests a second that are offered; 200 is what must be reached."""
LEAST_LOAD = 200.0
_BURST = 4
ATTEMPT_S = 0.5
"""The product's longest attempt, `Failover.attempt_timeout_s`."""
HANG_S = 0.1
"""Its shortest, where a peer could answer; the longest is 20 times the member's average latency."""
CROWDED_S = 0.15
"""What a machine of two busy cores may add to any latency."""


# --- what happened ----------------------------------------------------------------------------------------------------


class Transition(NamedTuple):
    """A change of state as the log told it. `who` is a member's name, or "group"."""

    at: float
    who: str
    before: str
    after: str
    reason: str


class Line(NamedTuple):
    """A line of the log."""

    at: float
    level: int
    text: str


_TRANSITION = re.compile(r"(?:member )?(\S+): (\w+) -> (\w+): (.*)", re.DOTALL)


class History(logging.Handler):
    """All that the product logs, with the time of each line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[Line] = []
        self.transitions: list[Transition] = []

    def emit(self, record: logging.LogRecord) -> None:
        """`logging` hands over each line."""
        now, text = time.monotonic(), record.getMessage()
        self.lines.append(Line(now, record.levelno, text))
        if found := _TRANSITION.fullmatch(text):
            self.transitions.append(Transition(now, *found.groups()))

    def of(self, who: str, since: float = 0.0) -> list[Transition]:
        """The transitions of a member, or of "group", from `since` on."""
        return [one for one in self.transitions if one.who == who and one.at >= since]

    def said(self, pattern: str, since: float = 0.0) -> list[Line]:
        """The lines that the regular expression is found in."""
        return [line for line in self.lines if line.at >= since and re.search(pattern, line.text)]

    @classmethod
    @contextmanager
    def kept(cls) -> Iterator[Self]:
        """Listen for a while."""
        history, logger = cls(), logging.getLogger("hsmitm")
        level = logger.level
        logger.addHandler(history)
        logger.setLevel(logging.INFO)
        try:
            yield history
        finally:
            logger.removeHandler(history)
            logger.setLevel(level)


# --- load -------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """One request: when it began, how long it took, and what it came to."""

    begun: float
    took_s: float
    key: str
    error: HsmitmError | None
    verified: bool


@dataclass
class Load:
    """Requests for all keys in turn, `rate` a second whatever becomes of the earlier ones. A context manager.

    They come four at a time, so that every member has its part: one after another, the quickest member takes them all.
    `keys` are the names of those asked for, all unless given. `failures`: some requests may fail, and the test says
    which. `answers` stand in the order in which the requests ended.
    """

    group: Group
    rate: float = LOAD
    keys: Sequence[str] = ()
    timeout_s: float = 10.0
    failures: bool = False
    answers: list[Answer] = field(default_factory=list)

    @property
    def signed(self) -> int:
        """Requests that were answered with a signature."""
        return sum(one.error is None for one in self.answers)

    @property
    def errors(self) -> list[HsmitmError]:
        """What the failed requests got."""
        return [one.error for one in self.answers if one.error is not None]

    @property
    def bad(self) -> int:
        """Signatures that do not verify."""
        return sum(one.error is None and not one.verified for one in self.answers)

    @property
    def slowest_s(self) -> float:
        """The longest that any request took."""
        return max(one.took_s for one in self.answers)

    def slow(self, than_s: float, since: float = 0.0) -> list[float]:
        """How long each request took that took longer, of those that began from `since` on."""
        return [one.took_s for one in self.answers if one.begun >= since and one.took_s > than_s]

    def p99_s(self, since: float = 0.0, to: float = float("inf")) -> float:
        """The 99th percentile of how long requests took that began in this time."""
        took = sorted(one.took_s for one in self.answers if since <= one.begun < to)
        return took[int(0.99 * (len(took) - 1))]

    async def more(self, requests: int = 100, timeout_s: float = 10) -> None:
        """Return once that many more requests were signed."""
        goal = self.signed + requests
        await until(lambda: self.signed >= goal, f"{requests} more requests are signed: {self.errors[-3:]}", timeout_s)

    async def __aenter__(self) -> Self:
        """Begin, and wait until the members are in their stride."""
        self._begun = time.monotonic()
        self._requests: set[asyncio.Task[None]] = set()
        self._clock = asyncio.create_task(self._run())
        await self.more(30)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the requests that were begun end, and say what they came to."""
        self._clock.cancel()
        if error is not None:
            for one in self._requests:
                one.cancel()
        for_s = time.monotonic() - self._begun
        ends = await asyncio.gather(self._clock, *self._requests, return_exceptions=True)
        if error is not None:
            return
        assert [end for end in ends[1:] if end is not None] == []
        assert isinstance(ends[0], asyncio.CancelledError), ends[0]
        assert self.bad == 0, f"{self.bad} bad signatures were delivered"
        assert self.failures or not self.errors, f"{len(self.errors)} of {len(self.answers)} failed: {self.errors[:3]}"
        reached = len(self.answers) / for_s
        assert reached >= LEAST_LOAD * min(1, self.rate / LOAD), f"{reached:.0f} requests/s: this machine is too busy"

    async def _run(self) -> None:
        names = list(self.keys) or sorted(self.group.keys)
        for number in itertools.count():
            ahead_s = self._begun + number / self.rate - time.monotonic()
            if number % _BURST == 0 and ahead_s > 0:
                await asyncio.sleep(ahead_s)  # the pace; nothing waits for it
            task = asyncio.create_task(self._request(names[number % len(names)], b"request %d" % number))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _request(self, name: str, message: bytes) -> None:
        begun, error, verified = time.monotonic(), None, False
        key = self.group.keys[name]
        try:
            signature = await self.group.sign(name, message, key.scheme.digest(message), in_s(self.timeout_s), "mint")
        except HsmitmError as problem:
            error = problem
        took_s = time.monotonic() - begun
        if error is None:
            verified = verifies(key, message, signature)
        self.answers.append(Answer(begun, took_s, name, error, verified))


def verifies(key: Key, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the key's, as a TLS client finds out: without any of the product's code."""
    try:
        if isinstance(key.public, rsa.RSAPublicKey):
            key.public.verify(signature, message, padding.PKCS1v15(), SHA256())
        else:
            key.public.verify(signature, message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


# --- the rig ----------------------------------------------------------------------------------------------------------


@dataclass
class Rig:
    """A group on HSMs that fail on command. Members go by their names: m1, m2, ..."""

    group: Group
    hsms: dict[str, FaultyModule]
    stores: dict[str, Store]
    history: History

    @staticmethod
    def now() -> float:
        """The clock of all times here."""
        return time.monotonic()

    def member(self, name: str) -> Member:
        """A member of the group."""
        return next(one for one in self.group.members if one.name == name)

    def hsm(self, name: str) -> FaultyModule:
        """The member's HSM; `hsm("m1").fault("C_Sign hang n=1")` is a context manager."""
        return self.hsms[name]

    def prefer(self, name: str) -> None:
        """The next request, if it comes alone, goes to this member: it seems to answer in no time."""
        seem(self, name, 1e-9)

    def longest_s(self) -> float:
        """What a hang may cost a request, from now on: one attempt at the member, 100 ms to ask a peer, and what a
        crowded machine adds."""
        slowest = max(one.latency_s for one in self.group.members)
        return min(ATTEMPT_S, max(HANG_S, 20 * slowest)) + 0.1 + CROWDED_S

    def load(self, **options: Any) -> Load:
        """Load on the group; see `Load`."""
        return Load(self.group, **options)

    def logins(self, name: str) -> int:
        """How often C_Login was called on the member's HSM: each is an attempt with the PIN."""
        return self.hsms[name].calls("C_Login")

    def starts(self) -> list[int]:
        """How often each member's process was started."""
        return [one.starts for one in self.group.members]

    def states(self) -> list[State]:
        """The members' states."""
        return [one.state for one in self.group.members]

    def path(self, who: str, since: float = 0.0) -> list[str]:
        """The states that a member, or "group", has entered from `since` on."""
        return [one.after for one in self.history.of(who, since)]

    async def until_path(self, who: str, path: Sequence[str], since: float = 0.0, timeout_s: float = 5) -> None:
        """Return once these states, and no others, have been entered from `since` on, in this order."""
        wanted = list(path)
        await until(
            lambda: (been := self.path(who, since)) == wanted or been != wanted[: len(been)],
            f"{who} goes {wanted}; since the fault: {self.history.of(who, since)}", timeout_s,
        )  # fmt: skip
        assert self.path(who, since) == wanted, self.history.of(who, since)

    async def until_up(self, name: str, starts: int | None = None, timeout_s: float = 5) -> None:
        """Return once the member is UP, in the life of this number where one is given."""
        member = self.member(name)
        await until(
            lambda: member.state is State.UP and member.serving and (starts is None or member.starts == starts),
            f"{name} is up ({starts=}); its history: {self.history.of(name)}", timeout_s,
        )  # fmt: skip

    def away_s(self, name: str, since: float = 0.0) -> float:
        """Seconds from when the member first left UP to when it was last UP again."""
        been = self.history.of(name, since)
        left = next(one.at for one in been if one.before == State.UP)
        return next(one.at for one in reversed(been) if one.after == State.UP) - left

    def counted(self, sample: str, **labels: str) -> float:
        """A counter of the group, added up over labels that are not given."""
        return counted(self.group, sample, **labels)

    def signed_by(self, name: str) -> float:
        """Requests that the member signed."""
        return self.counted("hsmitm_signatures_total", member=name, purpose="mint")

    def replaced(self, name: str) -> float:
        """Sessions of the member that were found lost and replaced, as far as it has told."""
        return self.counted("hsmitm_sessions_replaced_total", member=name)


@asynccontextmanager
async def make_rig(
    directory: Path,
    stores: Sequence[Store],
    *,
    failover: Failover | None = None,
    sessions: int = 4,
    keys: dict[str, Key] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    before: Callable[[dict[str, FaultyModule]], object] | None = None,
    state: Path | None = None,
    all_up: bool = True,
) -> AsyncIterator[Rig]:
    """A group of one member for each of `stores`, all UP; only settled where not `all_up`.

    `settings` are changes of a member's `MemberSettings`, by its name. `before` gets the HSMs before any member is
    started: rules that hold then. `state` is the directory of refused PINs. `directory` keeps control files and counts.
    """
    hsms: dict[str, FaultyModule] = {}
    members: list[MemberSettings] = []
    for place, store in enumerate(stores, 1):
        name = f"m{place}"
        hsms[name] = FaultyModule(directory / name)
        members.append(_behind(hsms[name], store.settings(name, sessions), (settings or {}).get(name, {})))
    if before is not None:
        before(hsms)
    all_keys = keys if keys is not None else keys_of(stores[0])
    with History.kept() as history:
        async with make_group(members, failover, keys=all_keys, state=state, all_up=all_up) as group:
            rig = Rig(group, hsms, {one.name: store for one, store in zip(members, stores, strict=True)}, history)
            yield rig
            _check(rig)


def _behind(hsm: FaultyModule, plain: MemberSettings, changes: Mapping[str, Any]) -> MemberSettings:
    environment = plain.environment | hsm.environment(MODULE)
    return structs.replace(plain, **({"module": str(hsm.path), "environment": environment} | dict(changes)))


def _check(rig: Rig) -> None:
    """What holds whatever happened."""
    for who in ("", *rig.hsms):
        logged = Counter(f"{one.before} -> {one.after}" for one in rig.history.of(who or "group"))
        made = {change: int(number) for change, number in transitions(rig.group, who).items()}
        assert logged == made, f"each change of {who or 'the group'} is one line of the log: {logged} is not {made}"
    for member in rig.group.members:
        assert rig.logins(member.name) <= member.starts, f"{member.name} logged in more often than it was started"
    assert rig.history.said("internal error|starting member .* failed") == []


# --- faults that several files use ------------------------------------------------------------------------------------


@contextmanager
def member_killed(rig: Rig, name: str) -> Iterator[int]:
    """The member's process is killed, by the kernel or an operator. Its process id."""
    process = rig.member(name).pid
    assert process
    os.kill(process, signal.SIGKILL)
    yield process


@contextmanager
def member_hung(rig: Rig, name: str) -> Iterator[int]:
    """The member's process stands still (SIGSTOP); if it is not killed meanwhile, it goes on afterwards."""
    process = rig.member(name).pid
    assert process
    with hung(process):
        yield process


@contextmanager
def module_rules(rig: Rig, *names: str, rules: Sequence[str]) -> Iterator[None]:
    """The same rules on several HSMs, and none afterwards."""
    try:
        for name in names:
            rig.hsm(name).rules(*rules)
        yield
    finally:
        for name in names:
            rig.hsm(name).clear()


def seem(rig: Rig, name: str, latency_s: float) -> None:
    """The member's average latency is this, until it answers again."""
    life = rig.member(name)._life
    assert life is not None
    life.health.latency_s = latency_s


async def until_gone(process: int, timeout_s: float = 3) -> None:
    """Return once the process is dead."""
    await until(lambda: not alive(process), f"process {process} is gone", timeout_s)
