"""What all attackers do: open connections, keep on until the time is over, and put into words what they saw."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable

from bench.edge.target import Seen, Target

_PATIENCE_S = 2.0
"""An attacker's wait for an answer."""


class RefusedError(Exception):
    """The other side said no: the message is the outcome."""


class Scene:
    """One attack's time: `target`, the clock, and the account of what was seen, which threads share."""

    def __init__(self, target: Target) -> None:
        """The clock runs from now on."""
        self.target, self.seen = target, Seen()
        self._until = time.monotonic() + target.seconds
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the time has passed."""
        return time.monotonic() > self._until

    def wait(self) -> None:
        """Until the time has passed."""
        time.sleep(max(0.0, self._until - time.monotonic()))

    def saw(self, outcome: str) -> None:
        """Count an outcome."""
        with self._lock:
            self.seen.outcomes[outcome] = self.seen.outcomes.get(outcome, 0) + 1

    def passed(self, variant: str) -> None:
        """Note what passed and must not."""
        with self._lock:
            self.seen.passed.append(variant)

    def broke(self, variant: str) -> None:
        """Note what must work and did not."""
        with self._lock:
            self.seen.broke.append(variant)

    def dial(self, address: str) -> socket.socket:
        """A TCP connection from the attackers' address."""
        host, _, port = address.rpartition(":")
        made = socket.create_connection((host, int(port)), timeout=_PATIENCE_S, source_address=(self.target.source, 0))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def passing(self, host: str, port: int) -> socket.socket:
        """Through the proxy that lets through what is neither TLS nor HTTP, by CONNECT."""
        return self.tunnel(host, port, self.target.passing)

    def tunnel(self, host: str, port: int, proxy: str = "") -> socket.socket:
        """Through the proxy by CONNECT."""
        raw = self.dial(proxy or self.target.proxy)
        raw.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = head_of(raw)
        if " 200 " not in head.partition("\r\n")[0]:
            raise RefusedError(status(head.encode()))
        return raw

    def socks(self, host: str, port: int) -> socket.socket:
        """Through the SOCKS5 listener (RFC 1928)."""
        raw = self.dial(self.target.socks)
        raw.sendall(b"\x05\x01\x00")
        if raw.recv(2) != b"\x05\x00":
            raise RefusedError("SOCKS: no")
        name = host.encode()
        raw.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2))
        if (answer := raw.recv(262))[1:2] != b"\x00":
            raise RefusedError(f"SOCKS: {answer[1:2].hex()}")
        return raw

    def tls(
        self, raw: socket.socket, name: str, *, alpn: str = "http/1.1", with_certificate: bool = False
    ) -> ssl.SSLSocket:
        """TLS on top, whoever answers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        if with_certificate:
            context.load_cert_chain(self.target.client_certificate, self.target.client_key)
        made = context.wrap_socket(raw, server_hostname=name)
        if alpn == "h2" and made.selected_alpn_protocol() != "h2":
            made.close()
            raise RefusedError("no HTTP/2")
        return made

    def flood(self, connection: socket.socket, chunks: Iterable[bytes]) -> None:
        """Send until the time is over, the chunks end, or the other side reads no more for a moment or says no."""
        connection.settimeout(_PATIENCE_S)
        for chunk in chunks:
            if self.over:
                return
            connection.sendall(chunk)
            with self._lock:
                self.seen.sent_mb += len(chunk) / 1e6

    def again(self, act: Callable[[], object], *, threads: int = 1, pause_s: float = 0.02) -> None:
        """Do it again and again in so many threads until the time is over; what it fails with is an outcome."""

        def one() -> None:
            while not self.over:
                self.once(act)
                time.sleep(pause_s)

        started = [threading.Thread(target=one, daemon=True) for _ in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join(self.target.seconds + 2 * _PATIENCE_S)

    def once(self, act: Callable[[], object]) -> None:
        """Do it; what it fails with is an outcome."""
        try:
            act()
        except (OSError, RefusedError, ValueError) as error:
            self.saw(outcome(error))

    def each(self, variants: Iterable[tuple[str, Callable[[], str]]]) -> None:
        """All variants at once, each on a thread. A variant returns its outcome."""

        def one(name: str, act: Callable[[], str]) -> None:
            try:
                told = act()
            except (OSError, RefusedError, ValueError) as error:
                told = outcome(error)
            self.saw(f"{name}: {told}")

        started = [threading.Thread(target=one, args=variant, daemon=True) for variant in variants]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join(4 * _PATIENCE_S)


def outcome(error: Exception) -> str:
    """An error in a word or two."""
    if isinstance(error, RefusedError):
        return str(error)
    reason = str(getattr(error, "reason", None) or "")  # OpenSSL's, of its own errors alone
    if "ALERT_" in reason:
        return f"alert {reason.partition('ALERT_')[2].lower()}"
    for kind, told in _WORDS.items():
        if isinstance(error, kind):
            return told
    if isinstance(error, ssl.SSLError):
        return f"TLS: {reason.lower() or 'error'}"
    return f"{type(error).__name__}: {str(error)[:60]}"


_WORDS: dict[type[Exception], str] = {
    ssl.SSLEOFError: "closed",
    ssl.SSLZeroReturnError: "closed",
    ConnectionResetError: "reset",
    BrokenPipeError: "reset",
    ConnectionRefusedError: "connection refused",
    TimeoutError: "no answer, or not read",
}


def head_of(connection: socket.socket) -> str:
    """Up to the empty line, or as much as comes."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65536 and (data := connection.recv(4096)):
        head += data
    return head.decode("latin-1")


def answer(connection: socket.socket, *, quiet_s: float = 0.5) -> bytes:
    """What comes until nothing came for a moment, or it is closed: at most 1 MB."""
    came = b""
    try:
        while len(came) < 1 << 20 and (data := connection.recv(65536)):
            came += data
            connection.settimeout(quiet_s)
    except TimeoutError:
        pass
    return came


def status(came: bytes) -> str:
    """The outcome in an HTTP/1 answer."""
    if not came:
        return "closed"
    found = re.match(rb"HTTP/1\.\d (\d{3})", came)
    return f"status {found[1].decode()}" if found else f"answer {came[:20]!r}"
