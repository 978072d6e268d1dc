"""A logged-in partition inside a member process: one thread for each session, all fed from one queue.

A session belongs to one thread for its life and is never shared, so CKR_OPERATION_ACTIVE cannot come from a race. The
anchor session holds the login and does nothing else. Key objects are found once for each session and thrown away with
it: a handle that outlives its session can name another key. Every session that comes back from a request is inspected:
a return code that makes it doubtful ends it, and a session that was idle proves itself alive before a client needs it.
"""

from __future__ import annotations

import functools
import queue
import random
import threading
import time
from collections.abc import Callable

from msgspec import structs

from hsm import codes
from hsm.backoff import Backoff
from hsm.codes import Kind
from hsm.errors import DeadlineError, HsmitmError, KeyLostError, MemberLostError, RefusedError, SessionLostError
from hsm.schemes import SCHEMES
from hsm.token.module import Module
from hsm.token.private_key import PrivateKey
from hsm.token.token import KeyMissingError, Session, Token
from hsm.uri import KeyURI
from hsm.wire.frames import Call, Decrypted
from hsm.wire.member import Decrypt, Generate, KeyFound, KeysFound, Open, Reply, Request, Sign, Signature, Vital

Respond = Callable[[Reply | HsmitmError], None]

_ROOM = Backoff(0.25, 5.0)
"""How long a session that the token has no room for waits before it asks again."""
_WRONG_KEY = frozenset({0x62, 0x63, 0x68})
"""CKR_KEY_SIZE_RANGE, CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED: a stale handle may look so."""


class _Job:
    """A call that waits for a session. `work` runs on the session's thread with its session and its keys."""

    __slots__ = ("deadline", "number", "queued", "respond", "work")

    def __init__(self, deadline: float, work: Callable[[_Worker], Reply], respond: Respond, number: int) -> None:
        """`number` counts the calls of the process."""
        self.deadline = deadline
        self.number = number
        self.work = work
        self.respond = respond
        self.queued = time.monotonic()


class Sessions:
    """The sessions of one token. Its public methods may be called from any thread."""

    def __init__(self, module: Module, opening: Open, token: Token, anchor: Session) -> None:
        """Open sessions of `token`, which share the login of `anchor`; where nobody logs in, that is one more of them.

        The pool is what was asked for, less where the token says or shows that it has fewer to give.
        """
        self._module = module
        self.token, self._anchor = token, anchor
        self.uris = dict(opening.keys)
        self.spkis = dict(opening.spkis)
        self.anywhere = frozenset(opening.spkis if opening.anywhere is None else opening.anywhere)
        self.keep_alive_s = opening.keep_alive_s
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.put = 0
        """Calls that came, all to the main thread."""
        self.returned_at = 0.0
        """When the latest one came back from the module."""
        self.pace_s = opening.session_every_s
        self.parking = threading.Lock()
        opened = _open_sessions(self.token, opening.sessions, at_once=not self.pace_s)
        wanted = _wanted(self.token, opening.sessions) if self.pace_s else len(opened)
        self._workers = [_Worker(self, opened[n] if n < len(opened) else None, n) for n in range(wanted)]
        for number, worker in enumerate(self._workers):
            threading.Thread(target=worker.run, name=f"session-{number}", daemon=True).start()

    @property
    def sessions(self) -> int:
        """Sessions that serve, or will as soon as they are opened."""
        return sum(not worker.parked for worker in self._workers)

    def vital(self) -> Vital:
        """How the sessions are, asked from the main thread: it answers while every session hangs."""
        now, queued = time.monotonic(), self.jobs.qsize()
        busy = [(since, worker.number, worker.until) for worker in self._workers if (since := worker.busy_since)]
        late = [(since, number) for since, number, until in busy if until < now]
        oldest, first = min(late, default=(now, self.put))
        overtaken = self.put - first - queued - sum(number > first for _, number, _ in busy)
        silent_since = max(self.returned_at, min((since for since, _, _ in busy), default=now))
        replaced = sum(worker.replaced for worker in self._workers)
        return Vital(now - oldest, self.sessions, queued, replaced, max(0, overtaken), now - silent_since)

    def describe_keys(self) -> dict[str, KeyFound]:
        """Every key of the configuration as the token holds it; at start, when no session is busy yet."""
        try:
            return self.described(self._anchor)
        finally:
            self._anchor.look_again()  # whenever that may be: nothing is remembered for it

    def key(self, session: Session, name: str) -> PrivateKey:
        """The configuration's key of that name, in a session. Raises RefusedError."""
        return session.key(self.uris[name], self.spkis.get(name, b""), anywhere=name in self.anywhere)

    def described(self, session: Session) -> dict[str, KeyFound]:
        """Every key of the configuration, in a session."""
        return {name: _described(functools.partial(self.key, session, name)) for name in self.uris}

    def generate(self, request: Generate) -> KeyFound:
        """Make the key pair and describe it. The partition must have been opened writable.

        Raises RefusedError where a private key of that label exists: nothing is ever overwritten or doubled.
        """
        uri = KeyURI(object=request.label)
        if not _described(lambda: self._anchor.key(uri)).missing:
            raise RefusedError(f"the partition has a private key '{request.label}' already; it is left as it is")
        made = self._anchor.generate(request.label, request.key_type)
        self.uris |= {name: made for name, asked in self.uris.items() if asked == uri}
        return structs.replace(_described(lambda: self._anchor.key(made)), uri=made if made != uri else None)

    def sign(self, call: Call[Request], request: Sign, respond: Respond) -> None:
        """Have a session make the signature; `respond` is called once, from that session's thread."""
        self._put(call, lambda worker: worker.sign(request), respond)

    def decrypt(self, call: Call[Request], request: Decrypt, respond: Respond) -> None:
        """Have a session decrypt; as `sign`."""
        self._put(call, lambda worker: worker.decrypt(request), respond)

    def describe(self, call: Call[Request], respond: Respond) -> None:
        """Look for the keys again, on a session's thread: the main thread must answer whatever hangs."""
        self._put(call, lambda worker: worker.describe(), respond)

    def inspect(self, call: Call[Request], respond: Respond) -> None:
        """Ask the module about its slots, on a thread of its own: one that hangs must hold up no session."""

        def tell() -> None:
            try:
                respond(self._module.inspect(call.deadline))
            except HsmitmError as error:
                respond(error)

        threading.Thread(target=tell, name="inspect", daemon=True).start()

    def _put(self, call: Call[Request], work: Callable[[_Worker], Reply], respond: Respond) -> None:
        self.put += 1
        self.jobs.put(_Job(call.deadline, work, respond, self.put))


class _Worker:
    """The thread of one session. It replaces its session when a return code says that the session is lost."""

    def __init__(self, pool: Sessions, session: Session | None, number: int) -> None:
        self._pool = pool
        self._session = session
        self._keys: dict[str, PrivateKey] = {}
        self._number = number
        self._rests = 0
        self.busy_since = 0.0
        """Since when it has been in the module, in which call, and until when that may take; 0: it is not."""
        self.number, self.until = 0, 0.0
        self.parked = False
        self.replaced = 0

    def run(self) -> None:
        """Serve jobs for ever."""
        if self._session is None:
            time.sleep(self._number * self._pool.pace_s)
            self._revive()
        every = self._pool.keep_alive_s
        while True:
            if self.parked:
                self._rests += 1
                time.sleep(_ROOM.after(self._rests))
                self._revive()
                continue
            try:  # not in step with the others
                job = self._pool.jobs.get(timeout=every * random.uniform(0.8, 1.2) if every else None)  # noqa: S311
            except queue.Empty:
                self._revive()
                continue
            self._serve(job)

    def _revive(self) -> None:
        """An idle session proves itself alive; one that is lost is replaced before anybody asks for it."""
        self.number, self.until = self._pool.put, 0.0
        self.busy_since = time.monotonic()
        for _ in ("this one", "a new one"):
            try:
                self._open().prove_alive()
            except HsmitmError as error:  # nobody waits for an answer; the signer's test signature finds what lasts
                if self._inspect(error):
                    continue
                if _busy(error):
                    self._park()
            break
        self.busy_since = 0.0

    def _serve(self, job: _Job) -> None:
        self.number, self.until = job.number, job.deadline
        started = self.busy_since = time.monotonic()
        if started > job.deadline:
            job.respond(DeadlineError("the deadline passed while the request waited for a session"))
            self.busy_since = 0.0
            return
        outcome: Reply | HsmitmError
        for attempt in ("first", "second"):
            try:
                outcome = job.work(self)
            except HsmitmError as error:
                outcome = error
                again = self._inspect(error)
                if again and attempt == "first":
                    continue
            break
        finished = self._pool.returned_at = time.monotonic()
        parked = isinstance(outcome, HsmitmError) and _busy(outcome) and self._park()
        if parked and isinstance(outcome, HsmitmError) and outcome.code == codes.SESSION_COUNT:
            self._pool.jobs.put(job)  # a session that exists serves it
        elif isinstance(outcome, Signature):
            job.respond(Signature(outcome.signature, started - job.queued, finished - started))
        else:
            job.respond(outcome)
        self.busy_since = 0.0

    def _inspect(self, error: HsmitmError) -> bool:
        """End the session where `error` makes it doubtful. Whether a new one may succeed at once."""
        lost = isinstance(error, SessionLostError)
        if self._session is not None and (
            lost or error.code in _WRONG_KEY or (isinstance(error, MemberLostError) and _unknown(error))
        ):
            self._session.close()
            self._session = None
            self.replaced += 1
        return lost

    def _open(self) -> Session:
        if self._session is None:
            self._keys.clear()
            self._session = self._pool.token.session()
        self.parked, self._rests = False, 0
        return self._session

    def _park(self) -> bool:
        """The token has no room for this session, or for its work: it rests, and is kept. Whether others can do its
        work meanwhile."""
        with self._pool.parking:  # two threads must not leave each other the work
            if self._pool.sessions - (not self.parked) < 1:
                return False
            self.parked = True
        return True

    # the work of a job

    def sign(self, request: Sign) -> Signature:
        """The signature; its times are filled in by the caller."""
        scheme = SCHEMES.get(request.scheme)
        if scheme is None or len(request.digest) != scheme.digest_size:
            raise RefusedError(f"{request.scheme} with a digest of {len(request.digest)} bytes is no signature scheme")
        return Signature(self._key(request.key).sign(scheme, request.digest, request.message), 0.0, 0.0)

    def decrypt(self, request: Decrypt) -> Decrypted:
        """The plaintext, empty where the padding is wrong: a client's bad ciphertext is no fault of anybody's.

        Raises RefusedError with an ambiguous code where the token does not tell bad padding from a failure of its own:
        the session stays, and nothing is tried again.
        """
        try:
            return Decrypted(self._key(request.key).decrypt(request.ciphertext))
        except HsmitmError as error:
            if error.code in codes.BAD_CIPHERTEXT:
                return Decrypted(b"")
            if codes.called_for(error) is Kind.AMBIGUOUS:
                raise RefusedError(str(error), error.code, error.calls_for) from error
            raise

    def _key(self, name: str) -> PrivateKey:
        if name not in self._pool.uris:
            raise RefusedError(f"this member was not given a key named '{name}'")
        session = self._open()
        key = self._keys.get(name)
        if key is None:
            try:
                key = self._keys[name] = self._pool.key(session, name)
            except KeyMissingError as error:
                # The key was there when the member started. A lost login and a vanished store look just like this: the
                # signer tells them apart by the other keys.
                raise KeyLostError(str(error)) from error
        return key

    def describe(self) -> KeysFound:
        """Every key of the configuration as the token holds it now."""
        session = self._open()
        session.look_again()
        return KeysFound(self._pool.described(session))


def _unknown(error: HsmitmError) -> bool:
    return codes.called_for(error) is Kind.AMBIGUOUS and error.code not in codes.NAMES


def _busy(error: HsmitmError) -> bool:
    """Whether the token has no room, for this session or for what it was to do."""
    return codes.called_for(error) is Kind.BUSY


def _wanted(token: Token, wanted: int) -> int:
    limit = token.info.max_sessions
    return wanted if limit is None else max(1, min(wanted, limit - 1))


def _open_sessions(token: Token, wanted: int, *, at_once: bool) -> list[Session]:
    wanted = _wanted(token, wanted) if at_once else 1
    sessions: list[Session] = []
    while len(sessions) < wanted:
        try:
            sessions.append(token.session())
        except MemberLostError as error:
            if _busy(error) and sessions:
                break
            raise
    return sessions


def _described(find: Callable[[], PrivateKey]) -> KeyFound:
    try:
        return find().describe()
    except KeyMissingError as error:
        return KeyFound(str(error), missing=True)
    except RefusedError as error:
        return KeyFound(str(error))
