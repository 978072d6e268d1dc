"""Whether a destination shows a certificate that is good for a name: asked of it in a TLS handshake of our own.

Of a connection that is not opened nobody here sees the certificate in TLS 1.3. So a server behind a bypass is asked for
it: before the client's ClientHello goes there, or beside that ([policy] probe); and where an SNI alone would select a
bypass, the answer may prove it (`proof`). What was found is remembered for ten minutes, by address and name and by what
else it depends on: the policy and its profile, and the ALPN, which a client chooses. A client has so many handshakes in
progress, and all together have so many; who has used that up waits for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from mitmproxy import connection
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter

from addons.account import account
from addons.edge.listeners.bypass import Probing
from addons.policy import domains
from addons.records.connections import facts_of
from addons.records.facts import CertificateFacts, ErrorClass, Facts, Verification
from addons.turns import LineFullError, Turns

PER_CLIENT, PLACES, _WAITING = 8, 64, 16
"""Handshakes in progress of one client and of all; and how many wait of one client."""
REMEMBERED = 4096
"""Findings: each is a few hundred bytes."""
KNOWN_S, UNREACHED_S = 600.0, 10.0
"""How long they count; one that is not about the certificate soon no longer does."""
_PASSING = frozenset({"connect-failed", "dns-failed", "too-slow", "no-resources", "internal"})
_MOST_ALPN = 8


class Question(Struct, frozen=True):
    """What is asked of whom: a certificate for `name` at `address` (an address, or a host that another proxy looks up).
    `named`: the client has named it, so that the certificate's names matter."""

    address: str
    port: int
    name: str
    named: bool
    alpn: tuple[str, ...]
    profile: str
    version: str


class Finding(Struct, frozen=True):
    """What came of it. `kind` and `sentence` are why a connection to it is refused, None and "" where it is not;
    `proved`: it is whom the name says, whatever the profile allows."""

    kind: ErrorClass | None = None
    sentence: str = ""
    proved: bool = False
    certificate: CertificateFacts | None = None
    verification: Verification | None = None


Shake = Callable[[connection.Client, Question], Awaitable[Finding]]
"""The handshake, on behalf of a client."""
Cut = Callable[[connection.Client, str], None]
"""End a client's connection."""
_BUSY = Finding("no-resources", "too many servers are being asked for their certificates; try again later")


class Probe:
    """The addon that layers and `proof` ask."""

    name = "probe"

    def __init__(self, shake: Shake, cut: Cut, within_s: float, registry: CollectorRegistry) -> None:
        """A handshake has `within_s`, with the wait for its turn."""
        self._shake, self._cut, self._within_s = shake, cut, within_s
        self._turns = Turns(PER_CLIENT, PLACES, _WAITING)
        self._known: OrderedDict[Question, tuple[float, Finding]] = OrderedDict()
        self._running: dict[Question, asyncio.Task[Finding]] = {}
        self._beside: set[asyncio.Task[None]] = set()
        self._counter = Counter(
            "hsmitm_probes", "Servers asked for their certificate before, or beside, a bypass, by what was found",
            ("result",), registry=registry,
        )  # fmt: skip
        for result in ("good", "refused", "unreached"):
            self._counter.labels(result)

    def policy_probe(self, probing: Probing) -> Awaitable[None] | None:
        """Whether a connection that is not to be opened may go to its server."""
        facts = facts_of(probing.client)
        mode = facts.policy.probe if facts.policy is not None else "off"
        if mode == "off" or facts.mode == "inbound":
            return None
        question = self.question(facts, probing.server)
        if (known := self._recall(question)) is not None:
            self._answer(probing, facts, known)
        elif mode == "before":
            return self._wait(probing, facts, question)
        else:
            task = asyncio.get_running_loop().create_task(self._look(probing, facts, question))
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)
        return None

    async def proved(self, client: connection.Client, facts: Facts, address: str) -> bool:
        """Whether the server at `address` and the port of `facts` has a certificate for their SNI. For a policy that
        only warns nobody is asked: no byte is another one for it."""
        if facts.policy is None or facts.policy.probe == "off" or facts.policy.mode == "warn":
            return False
        name = domains.met(facts.sni).text
        return (await self.find(client, _question(facts, address, facts.port, name, named=True))).proved

    @staticmethod
    def question(facts: Facts, server: connection.Server) -> Question:
        """What is to be asked of the server that a client is connected to, or will be by another proxy."""
        host, port = server.address[:2] if server.address else ("", 0)
        address = server.peername[0] if server.peername and facts.mode != "upstream" else host
        named = domains.met(facts.sni).text or domains.met(host).text
        return _question(facts, address, port, named or address, named=bool(named))

    async def find(self, client: connection.Client, question: Question) -> Finding:
        """The answer: what is known, or what is found now."""
        if (known := self._recall(question)) is not None:
            return known
        task = self._running.get(question)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(client, question))
            if not task.done():
                self._running[question] = task
                task.add_done_callback(lambda _: self._running.pop(question, None))
        await asyncio.wait([task])  # which leaves it to others, where we are cancelled
        return task.result()

    async def _ask(self, client: connection.Client, question: Question) -> Finding:
        who = account(client.peername[0])
        finding = Finding("too-slow", f"{question.name} did not show its certificate within {self._within_s:g} s")
        try:
            async with asyncio.timeout(self._within_s):
                await self._turns.take(who)
                try:
                    finding = await self._shake(client, question)
                finally:
                    self._turns.give_back(who)
        except TimeoutError:
            pass
        except LineFullError:
            return _BUSY
        self._keep(question, finding)
        return finding

    def _recall(self, question: Question) -> Finding | None:
        until, finding = self._known.get(question, (0.0, None))
        if finding is None or until <= time.monotonic():
            return None
        self._known.move_to_end(question)
        return finding

    def _keep(self, question: Question, finding: Finding) -> None:
        unreached = finding.kind in _PASSING
        self._counter.labels("unreached" if unreached else "refused" if finding.kind else "good").inc()
        self._known[question] = time.monotonic() + (UNREACHED_S if unreached else KNOWN_S), finding
        self._known.move_to_end(question)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    async def _wait(self, probing: Probing, facts: Facts, question: Question) -> None:
        self._answer(probing, facts, await self.find(probing.client, question))

    async def _look(self, probing: Probing, facts: Facts, question: Question) -> None:
        """The connection has gone on meanwhile."""
        finding = await self.find(probing.client, question)
        if finding.kind in _PASSING:
            return  # nothing is known against it, and the client has reached it
        self._answer(probing, facts, finding)
        if finding.kind is not None:
            self._cut(probing.client, finding.sentence)

    @staticmethod
    def _answer(probing: Probing, facts: Facts, finding: Finding) -> None:
        facts.server_leg.certificate, facts.server_leg.verification = finding.certificate, finding.verification
        if finding.kind is not None:
            probing.refused = finding.sentence
            facts.event = "failed"
            facts.fail(finding.kind, "server", finding.sentence)


def _question(facts: Facts, address: str, port: int, name: str, *, named: bool) -> Question:
    decision = facts.decision
    profile = decision.profile if decision is not None and decision.enforced else "default"
    return Question(address, port, name, named, facts.alpn[:_MOST_ALPN], profile, facts.policy_version)
