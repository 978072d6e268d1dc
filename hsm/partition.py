"""A logged-in partition inside a member process: one thread for each session, all fed from one queue.

A session belongs to one thread for its life and is never shared, so CKR_OPERATION_ACTIVE cannot come from a race. The
anchor session holds the login and does nothing else. Key objects are found once for each session and thrown away with
it: a handle that outlives its session can name another key.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from hsm import codes, wire
from hsm.errors import DeadlineError, HsmitmError, MemberLostError, RefusedError, SessionLostError
from hsm.module import KeyMissingError, Module, PrivateKey, Session, Token
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI

Respond = Callable[[wire.Signature | HsmitmError], None]


class Partition:
    """The sessions of one token. Its public methods may be called from any thread."""

    def __init__(self, module: Module, opening: wire.Open) -> None:
        """Find the partition, log in once and open its sessions.

        The pool is what was asked for, less where the token says or shows that it has fewer to give; one session is
        the anchor's. Raises the errors of `Module.token` and `Token.log_in`.
        """
        assert opening.pin is not None
        self.token = module.token(opening.selector)
        self._uris = dict(opening.keys)
        self._anchor = self.token.log_in(opening.pin, writable=opening.writable)
        self._jobs: queue.SimpleQueue[tuple[float, wire.Call, wire.Sign, Respond]] = queue.SimpleQueue()
        sessions = _open_sessions(self.token, opening.sessions)
        self.sessions = len(sessions)
        for number, session in enumerate(sessions):
            threading.Thread(target=self._serve, args=(session,), name=f"session-{number}", daemon=True).start()

    def describe_keys(self) -> dict[str, wire.KeyFound]:
        """Every key of the configuration as the token holds it."""
        return {name: _describe(self._anchor, uri) for name, uri in self._uris.items()}

    def generate(self, request: wire.Generate) -> wire.KeyFound:
        """Make the key pair and describe it. The partition must have been opened writable.

        Raises RefusedError where a private key of that label exists: nothing is ever overwritten or doubled.
        """
        uri = KeyURI(object=request.label)
        if not _describe(self._anchor, uri).missing:
            raise RefusedError(f"the partition has a private key '{request.label}' already; it is left as it is")
        self._anchor.generate(request.label, request.key_type)
        return _describe(self._anchor, uri)

    def sign(self, call: wire.Call, request: wire.Sign, respond: Respond) -> None:
        """Have a session make the signature; `respond` is called once, from that session's thread."""
        self._jobs.put((time.monotonic(), call, request, respond))

    def _serve(self, session: Session | None) -> None:
        """A session's thread. It replaces its session when a return code says that the session is lost."""
        keys: dict[str, PrivateKey] = {}
        while True:
            queued, call, request, respond = self._jobs.get()
            started = time.monotonic()
            if started > call.deadline:
                respond(DeadlineError("the deadline passed while the request waited for a session"))
                continue
            for attempt in ("first", "second"):
                try:
                    if session is None:
                        keys.clear()
                        session = self.token.session()
                    signature = self._sign(session, keys, request)
                    finished = time.monotonic()
                    respond(wire.Signature(signature, started - queued, finished - started))
                except SessionLostError as error:
                    if session is not None:
                        session.close()
                    session = None
                    if attempt == "second":
                        respond(error)
                    continue
                except HsmitmError as error:
                    respond(error)
                break

    def _sign(self, session: Session, keys: dict[str, PrivateKey], request: wire.Sign) -> bytes:
        scheme = SCHEMES.get(request.scheme)
        if scheme is None or len(request.digest) != scheme.digest_size:
            raise RefusedError(f"{request.scheme} with a digest of {len(request.digest)} bytes is no signature scheme")
        key = keys.get(request.key)
        if key is None:
            uri = self._uris.get(request.key)
            if uri is None:
                raise RefusedError(f"this member was not given a key named '{request.key}'")
            try:
                key = keys[request.key] = session.key(uri)
            except KeyMissingError as error:
                # The key was there when the member started. A lost login and a vanished store look just like this, and
                # both are cured by a new process, so it is the member that is lost and not the request that is wrong.
                raise MemberLostError(str(error)) from error
        return key.sign(scheme, request.digest, request.message)


def _open_sessions(token: Token, wanted: int) -> list[Session]:
    limit = token.info.max_sessions
    if limit is not None:
        wanted = max(1, min(wanted, limit - 1))
    sessions: list[Session] = []
    while len(sessions) < wanted:
        try:
            sessions.append(token.session())
        except MemberLostError as error:
            if error.code == codes.SESSION_COUNT and sessions:
                break
            raise
    return sessions


def _describe(session: Session, uri: KeyURI) -> wire.KeyFound:
    try:
        return session.key(uri).describe()
    except KeyMissingError as error:
        return wire.KeyFound(str(error), missing=True)
    except RefusedError as error:
        return wire.KeyFound(str(error))
