"""A TLS server connection whose private key lives elsewhere, over memory buffers: GnuTLS behind pyOpenSSL's interface.

It has the part of `OpenSSL.SSL.Connection` that mitmproxy's TLS layer calls, and raises what that layer expects. Why
not pyOpenSSL itself: see `library`. Not here: DTLS, early data (RFC 8446 section 8: replays), renegotiation,
authentication after the handshake. SSLKEYLOGFILE works: GnuTLS honours it by itself.

A handshake's signature is made by a callable that may block (`key`), and GnuTLS cannot suspend in the middle of
one. So `do_handshake` belongs on a worker thread. Everything else is quick and belongs on the event loop, never while
`do_handshake` runs on the same connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Buffer, Sequence
from typing import Any, NoReturn

from OpenSSL import SSL, crypto

from addons.gnutls import library as gnutls
from addons.gnutls.credentials import Credentials
from addons.gnutls.library import callback, check, ffi, load, text

_SERVER, _NONBLOCK, _NO_TICKETS, _NO_AUTO_SEND_TICKET = 1, 1 << 3, 1 << 10, 1 << 21  # gnutls_init_flags_t
_ALPN_MANDATORY, _ALPN_SERVER_PRECEDENCE = 1, 2
_FATAL, _HANDSHAKE_FAILURE = 2, 40
_SHUT_WR = 1
_VERSIONS = {4: "TLSv1.2", 5: "TLSv1.3"}  # gnutls_protocol_t
_SUITES = {10: "TLS_AES_128_GCM_SHA256", 11: "TLS_AES_256_GCM_SHA384", 23: "TLS_CHACHA20_POLY1305_SHA256"}
_PLAIN_ALERT, _ALERT_SIZE = bytes((21, 3, 3, 0, 2)), 7
"""The head of an alert that is not encrypted. OpenSSL's client sends one when it refuses a TLS 1.3 server's certificate
or signature; GnuTLS tries to decrypt it, and the commonest trouble of all would be reported as a bad record."""
_RECORD_SIZE = 16384  # RFC 8446 section 5.1
_NAME_SIZE = 256
_GO_ON = {gnutls.AGAIN, gnutls.INTERRUPTED, gnutls.WARNING_ALERT_RECEIVED}
_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


class Connection:
    """The server's end of a TLS connection with one client, behind the part of pyOpenSSL's interface that is used."""

    def __init__(self, credentials: Credentials, alpn: Sequence[bytes] = ()) -> None:
        """`alpn`: what may be spoken, in order of preference. A client that offers protocols, none of them ours, is
        refused (RFC 7301 section 3.2); one that offers none is not. Empty: ALPN is not spoken.

        Raises SSL.Error where GnuTLS cannot make a session.
        """
        library = load()
        made = ffi.new("void **")
        check(library.gnutls_init(made, _SERVER | _NONBLOCK | _NO_TICKETS | _NO_AUTO_SEND_TICKET), "gnutls_init")
        # The session points to the credentials and to the buffers: the destructor keeps both until it is gone.
        self._buffers = _Buffers(made[0])
        handle = ffi.new_handle(self._buffers)
        self._session = ffi.gc(made[0], functools.partial(_free, library, (credentials, handle)))
        credentials.apply(self._session)
        if alpn:
            names, count, _ = _protocols(tuple(alpn))
            flags = _ALPN_MANDATORY | _ALPN_SERVER_PRECEDENCE
            check(library.gnutls_alpn_set_protocols(self._session, names, count, flags), "ALPN")
        library.gnutls_transport_set_ptr(self._session, handle)
        library.gnutls_transport_set_pull_function(self._session, _on_pull.native)
        library.gnutls_transport_set_push_function(self._session, _on_push.native)
        library.gnutls_transport_set_pull_timeout_function(self._session, _on_pull_timeout.native)
        self._library = library
        self._established = False
        self._shutdown = 0
        self._broken: list[tuple[str, str, str]] = []
        self._cause: BaseException | None = None

    # the wire

    def bio_write(self, data: Buffer) -> int:
        """Bytes from the client. Returns their number."""
        before = len(self._buffers.incoming)
        self._buffers.incoming += data
        return len(self._buffers.incoming) - before

    def bio_read(self, size: int) -> bytes:
        """At most `size` bytes for the client; SSL.WantReadError when there are none.

        After `do_handshake` or `recv` raised SSL.Error there may be an alert: send it before closing.
        """
        outgoing = self._buffers.outgoing
        if not outgoing:
            raise SSL.WantReadError
        data = bytes(outgoing[:size])
        del outgoing[:size]
        return data

    # the session

    def do_handshake(self) -> None:
        """Go on with the handshake; return when it is complete. Blocks for as long as the key's callables do.

        Raises SSL.WantReadError when the client has to say more, and SSL.Error when the handshake failed; its cause is
        what a callable raised, where that was the reason.
        """
        if self._established:
            return
        gnutls.left()
        code = self._repeat(self._library.gnutls_handshake, self._session)
        # A failed decryption shows later, at the client's Finished.
        self._cause = gnutls.left() or self._cause
        if code < 0:
            self._fail(code, "handshake")
        self._established = True
        if self.get_protocol_version_name() == "TLSv1.3":
            # Behind the client's Finished, not with our first flight as GnuTLS would: it acknowledges the Finished, and
            # a client with Nagle's algorithm (RFC 896) otherwise holds its request back for 40 ms.
            self._library.gnutls_session_ticket_send(self._session, 2, 0)

    def recv(self, size: int) -> bytes:
        """At least one and at most `size` bytes of what the client says. Raises SSL.WantReadError when there are none
        yet, SSL.ZeroReturnError after the client's close_notify, SSL.Error when the connection is broken."""
        size = min(size, _RECORD_SIZE)
        room = _uncleared("char[]", size)
        code = self._repeat(self._library.gnutls_record_recv, self._session, room, size)
        if code < 0:
            self._fail(code, "recv")
        if not code:
            self._shutdown |= SSL.RECEIVED_SHUTDOWN
            raise SSL.ZeroReturnError
        return bytes(ffi.buffer(room, code))

    def sendall(self, data: Buffer) -> int:
        """Encrypt `data`. Returns its length. Raises SSL.SysCallError where the connection is broken or closed by us,
        which mitmproxy ignores: the reason was told by `recv`."""
        if self._broken or self._shutdown & SSL.SENT_SHUTDOWN:
            raise SSL.SysCallError(errno.EPIPE, "the connection is closed")
        sent = 0
        with ffi.from_buffer(data) as content:
            while sent < len(content):
                code = self._library.gnutls_record_send(self._session, content + sent, len(content) - sent)
                if code < 0:
                    raise SSL.SysCallError(errno.EPIPE, gnutls.reason(code))
                sent += code
        return sent

    def shutdown(self) -> bool:
        """Send close_notify, once; reading goes on. Whether the client has said goodbye as well."""
        if not self._broken and not self._shutdown & SSL.SENT_SHUTDOWN:
            self._library.gnutls_bye(self._session, _SHUT_WR)
            self._shutdown |= SSL.SENT_SHUTDOWN
        return bool(self._shutdown & SSL.RECEIVED_SHUTDOWN)

    def abort(self, description: int) -> None:
        """Queue a fatal alert (RFC 8446 section 6.2). The connection is broken then."""
        if not self._broken:
            self._library.gnutls_alert_send(self._session, _FATAL, description)
            self._broken = [("hsmitm", "", f"aborted with alert {description}")]

    def _repeat(self, function: Any, *arguments: Any) -> int:
        """Call until there is a result, an error, or nothing left to read.

        GnuTLS gives up control ("again") after a message that was not asked for, whatever waits behind it.
        """
        if self._broken:
            raise SSL.Error(self._broken)
        while True:
            self._buffers.starved = False
            code = int(function(*arguments))
            if code not in _GO_ON:
                return code
            if self._buffers.starved:
                raise SSL.WantReadError

    def _fail(self, code: int, doing: str) -> NoReturn:
        """Queue the alert that `code` calls for, and raise it in pyOpenSSL's form."""
        cause, self._cause = self._cause, None
        if isinstance(cause, KeyboardInterrupt | SystemExit):
            raise cause
        if (alert := self._received(code)) is not None:
            entry = ("SSL routines", "", alert)
        else:
            self._send_alert(code)
            old = code == gnutls.UNSUPPORTED_VERSION_PACKET
            entry = ("SSL routines", "", "unsupported protocol") if old else ("GnuTLS", doing, gnutls.reason(code))
        self._broken = [*([("hsmitm", type(cause).__name__, str(cause))] if cause else []), entry]
        raise SSL.Error(self._broken) from cause

    def _received(self, code: int) -> str | None:
        """The client's alert, where one is behind `code`, spelled as OpenSSL does: mitmproxy's texts depend on it."""
        consumed = self._buffers.consumed
        if code == gnutls.FATAL_ALERT_RECEIVED:
            number = self._library.gnutls_alert_get(self._session)
        elif code == gnutls.DECRYPTION_FAILED and len(consumed) == _ALERT_SIZE and consumed.startswith(_PLAIN_ALERT):
            number = consumed[-1]
        else:
            return None
        name = text(self._library.gnutls_alert_get_strname(number)).removeprefix("GNUTLS_A_").lower().replace("_", " ")
        # OpenSSL's prefix for what SSL 3.0 had already (RFC 6101 section 5.4) differs from that of later ones.
        return f"{'ssl/tls' if number <= 47 else 'tlsv1'} alert {name or number}"

    def _send_alert(self, code: int) -> None:
        if code == gnutls.NO_CERTIFICATE_FOUND:
            # RFC 5246 section 7.4.6; GnuTLS would say that it could not decode the message.
            self._library.gnutls_alert_send(self._session, _FATAL, _HANDSHAKE_FAILURE)
        else:
            self._library.gnutls_alert_send_appropriate(self._session, code)

    # what came of it

    @property
    def broken(self) -> str:
        """Why nothing can be said or heard any more: how it failed, or that it was aborted. Empty where it can."""
        return "; ".join(why for _, _, why in self._broken)

    @property
    def resumed(self) -> bool:
        """Whether the session was resumed, so that no key was asked."""
        return bool(self._library.gnutls_session_is_resumed(self._session))

    @property
    def sni(self) -> str | None:
        """The name that the client asked for."""
        room, size, kind = ffi.new("char[]", _NAME_SIZE), ffi.new("size_t *", _NAME_SIZE), ffi.new("unsigned int *")
        code = self._library.gnutls_server_name_get(self._session, room, size, kind, 0)
        return text(room) if code == 0 else None

    def get_group_name(self) -> str | None:
        """The group of the key exchange as OpenSSL spells it; None where there is none, as with RSA's."""
        name = self._library.gnutls_group_get_name(self._library.gnutls_group_get(self._session))
        if name == ffi.NULL:
            return None
        spelt = text(name).replace("-", "")
        return spelt if "MLKEM" in spelt else spelt.lower()

    @property
    def shown(self) -> bytes:
        """The certificate (DER) that the client was shown; empty in a resumed session, where it was none."""
        ours = self._library.gnutls_certificate_get_ours(self._session)
        return b"" if ours == ffi.NULL else bytes(ffi.buffer(ours.data, ours.size))

    def get_shutdown(self) -> int:
        """SSL.SENT_SHUTDOWN, SSL.RECEIVED_SHUTDOWN, both, or 0."""
        return self._shutdown

    def get_peer_certificate(self) -> crypto.X509 | None:
        """The client's certificate, if it showed one; in a resumed session the one that it showed before."""
        return next(iter(self._peers(slice(1))), None)

    def get_peer_cert_chain(self) -> list[crypto.X509] | None:
        """What the client sent behind its certificate: as in OpenSSL, a server's chain is without the leaf."""
        return self._peers(slice(1, None)) or None

    def _peers(self, which: slice) -> list[crypto.X509]:
        count = ffi.new("unsigned int *")
        peers = self._library.gnutls_certificate_get_peers(self._session, count)
        ders = [ffi.buffer(peers[index].data, peers[index].size)[:] for index in range(count[0] if peers else 0)]
        found: list[crypto.X509] = []
        for der in ders[which]:
            # What OpenSSL cannot read after GnuTLS has verified it is nothing that anybody can be shown.
            with contextlib.suppress(crypto.Error):
                found.append(crypto.load_certificate(crypto.FILETYPE_ASN1, der))
        return found

    def get_alpn_proto_negotiated(self) -> bytes:
        """The protocol agreed upon; empty if none was."""
        found = ffi.new("gnutls_datum_t *")
        code = self._library.gnutls_alpn_get_selected_protocol(self._session, found)
        return bytes(ffi.buffer(found.data, found.size)) if code == 0 else b""

    def get_cipher_name(self) -> str | None:
        """The cipher suite as OpenSSL spells it; None before the handshake is complete."""
        if not self._established:
            return None
        library, session = self._library, self._session
        exchange, cipher = library.gnutls_kx_get(session), library.gnutls_cipher_get(session)
        if self.get_protocol_version_name() == "TLSv1.3":
            return _SUITES.get(cipher)
        name = library.gnutls_cipher_suite_get_name(exchange, cipher, library.gnutls_mac_get(session))
        return text(name).removeprefix("RSA_").replace("AES_", "AES").replace("_", "-")

    def get_protocol_version_name(self) -> str:
        """TLSv1.2 or TLSv1.3; "Unknown" before the handshake is complete."""
        if not self._established:
            return "Unknown"
        return _VERSIONS.get(self._library.gnutls_protocol_get_version(self._session), "Unknown")


class _Buffers:
    """The wire's two directions, as GnuTLS's callbacks find them."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.consumed = b""  # the last bytes of `incoming` that GnuTLS took
        self.starved = False  # GnuTLS asked for more than there was


def _free(library: Any, _kept: object, session: Any) -> None:
    library.gnutls_deinit(session)


@functools.lru_cache(maxsize=64)
def _protocols(names: tuple[bytes, ...]) -> tuple[Any, int, list[Any]]:
    contents = [ffi.from_buffer("unsigned char[]", name) for name in names]
    array = ffi.new("gnutls_datum_t[]", [{"data": one, "size": len(one)} for one in contents])
    return array, len(contents), contents  # the array has only their addresses


@callback("gnutls_pull_func", error=-1)
def _on_pull(transport: Any, room: Any, size: int) -> int:
    buffers = ffi.from_handle(transport)
    incoming = buffers.incoming
    if not incoming:
        buffers.starved = True
        load().gnutls_transport_set_errno(buffers.session, errno.EAGAIN)
        return -1
    count = min(size, len(incoming))
    ffi.memmove(room, incoming, count)
    buffers.consumed = (buffers.consumed + incoming[max(0, count - _ALERT_SIZE) : count])[-_ALERT_SIZE:]
    del incoming[:count]
    return count


@callback("gnutls_push_func", error=-1)
def _on_push(transport: Any, content: Any, size: int) -> int:
    ffi.from_handle(transport).outgoing += ffi.buffer(content, size)
    return size


@callback("gnutls_pull_timeout_func", error=-1)
def _on_pull_timeout(transport: Any, _timeout_ms: int) -> int:
    return len(ffi.from_handle(transport).incoming)
