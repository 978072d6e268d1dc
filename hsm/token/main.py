"""The far end of a member: a process that holds one module, one login and its sessions, and dies with its parent.

Started by `hsm.member.member` with one inherited socket. The PIN arrives in the first frame, never in argv or
environment. The main thread reads frames; session threads answer. It always ends in `os._exit`: the interpreter would
run C_Finalize with the GIL held, and a hung module would then hang the exit.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable

from hsm import vendor_codes
from hsm.errors import HsmitmError, RefusedError
from hsm.token import translation
from hsm.token.module import Module
from hsm.token.sessions import Sessions
from hsm.token.token import Session, Token
from hsm.wire import frames
from hsm.wire.frames import Answer, Call, Done, Frame
from hsm.wire.member import (
    CODEC,
    KEY_TYPES,
    Begin,
    Decrypt,
    Describe,
    Generate,
    Initialise,
    Inspect,
    LogIn,
    Open,
    Opened,
    Ping,
    Reply,
    Request,
    Sign,
)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
"""prctl(2), linux/prctl.h."""
_DESCRIPTORS = 1024
"""A vendor's library may use select(2), which ends there, or close all that could be open."""


class _MemberProcess:
    """Answers frames on one socket until it is closed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._outgoing: deque[bytes] = deque()
        self._module: Module | None = None
        self._found: tuple[Open, Token] | None = None
        self._anchor: Session | None = None
        self._sessions: Sessions | None = None

    def serve(self) -> None:
        """Read frames until the parent closes the socket or dies."""
        framer = CODEC.asked()
        while data := self._connection.recv(65536):
            for frame in framer.feed(data):
                if isinstance(frame, Call):  # not `Cancel`: a session cannot be interrupted
                    self._handle(frame)

    def _handle(self, call: Call[Request]) -> None:
        body = call.body
        sessions = self._sessions
        match body:  # what a session's thread answers
            case Sign() if sessions is not None:
                sessions.sign(call, body, self._responder(call.id))
                return
            case Decrypt() if sessions is not None:
                sessions.decrypt(call, body, self._responder(call.id))
                return
            case Describe() if sessions is not None:
                sessions.describe(call, self._responder(call.id))
                return
            case Inspect() if sessions is not None:
                sessions.inspect(call, self._responder(call.id))
                return
        try:
            self._send(Answer(call.id, self._answer(body, call.deadline)))
        except HsmitmError as error:
            self._send(frames.fault(call.id, error))

    def _answer(self, body: Request, deadline: float) -> Reply:
        match body:
            case Open():
                return self._open(body, deadline)
            case LogIn() if self._found is not None and self._anchor is None:
                self._log_in(*self._found, body.pin)
                return Done()
            case Begin() if self._found is not None and self._sessions is None:
                return self._begin(*self._found)
            case Initialise():
                self._load(body.module).initialise(body.label, body.so_pin, body.pin)
                return Done()
            case Generate() if self._sessions is not None:
                return self._sessions.generate(body)
            case Ping() if self._sessions is not None:
                return self._sessions.vital()
        raise RefusedError(f"a member does not answer {type(body).__name__} now")

    def _load(self, path: str) -> Module:
        if self._module is None:
            self._module = Module(path)
        return self._module

    def _open(self, opening: Open, deadline: float) -> Opened:
        translation.take(opening.codes)  # before the module is loaded: its C_Initialize may give one of them
        module = self._load(opening.module)
        token = module.token(opening.selector, deadline)
        token.keys_wanted = len(opening.keys)
        translation.take(vendor_codes.built_in(token.info.model))
        if opening.sessions:
            token.try_session(writable=opening.writable)
            self._found = (opening, token)
        if opening.pin is not None:
            self._log_in(opening, token, opening.pin)
            return self._begin(opening, token)
        return Opened(opening.module, module.description, token.info, 0, {})

    def _log_in(self, opening: Open, token: Token, pin: str | None) -> None:
        self._anchor = token.log_in(pin, user_type=opening.user_type)

    def _begin(self, opening: Open, token: Token) -> Opened:
        module = self._load(opening.module)
        anchor = self._anchor or token.session()
        self._sessions = sessions = Sessions(module, opening, token, anchor)
        keys = sessions.describe_keys()
        makes = [one for one in KEY_TYPES if token.makers(one)] if opening.writable else []
        return Opened(opening.module, module.description, token.info, sessions.sessions, keys, makes)

    def _responder(self, call_id: int) -> Callable[[Reply | HsmitmError], None]:
        def respond(result: Reply | HsmitmError) -> None:
            if isinstance(result, HsmitmError):
                self._send(frames.fault(call_id, result))
            else:
                self._send(Answer(call_id, result))

        return respond

    def _send(self, frame: Frame) -> None:
        """Send `frame`, or leave it to the thread that sends already: it looks again before it ends."""
        self._outgoing.append(frames.encode(frame))
        while self._outgoing and self._sending.acquire(blocking=False):
            try:
                self._connection.sendall(b"".join(self._outgoing.popleft() for _ in range(len(self._outgoing))))
            finally:
                self._sending.release()


def main() -> None:
    """Entry point: `python -m hsm.token.main FD`."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the signer ends a member by closing its socket, or with SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the PIN
    # When the signer dies while a module hangs in our main thread, nobody reads the socket's end: the kernel ends us.
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_DUMPABLE, 0)  # no other process of our user can look into this one, where the PIN is
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _DESCRIPTORS), hard))
    threading.excepthook = _die_of
    # python-pkcs11's searches complain once more of an error that was answered; what is ours is caught below.
    sys.unraisablehook = lambda _: None
    sys.excepthook = lambda *_: None
    status = 1
    try:
        _MemberProcess(socket.socket(fileno=int(sys.argv[1]))).serve()
        status = 0
    except OSError:
        status = 0  # the signer is gone, and with it the reason to be here
    except Exception as error:  # noqa: BLE001  # no traceback reaches an operator; the signer counts and restarts
        sys.stderr.write(f"hsmitm member: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


def _die_of(failure: threading.ExceptHookArgs) -> None:
    """A session thread met what it cannot answer (the socket is gone, or a bug): end here, and start afresh."""
    if not issubclass(failure.exc_type, OSError):
        sys.stderr.write(f"hsmitm member: {failure.exc_type.__name__}: {failure.exc_value}\n")
        sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
