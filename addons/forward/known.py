"""What the choice of a leaf needs to know of one client connection: what the client verifies, how its server did."""

from __future__ import annotations

from mitmproxy import tls
from msgspec import Struct
from OpenSSL import SSL

from addons.edge.answers import Sentence
from addons.forward.leaf_keys import LeafKind
from addons.records.connections import facts_of
from addons.tls import client_hello
from addons.upstream.connection import ServerConnection
from addons.upstream.judge import Judgement

_BROKEN = "connect-failed"
"""The class of a handshake that broke for whatever reason: what matters of it to a client is that the server did not
prove who it is."""


class Known(Struct):
    """Of one client. `verified`: its server completed a handshake and proved who it is, or what is wrong with it is
    allowed; `answered`: it got as far as a certificate. `faultless`: nothing is wrong with that, so its names may be a
    leaf's. `schemes` are what the client verifies in certificates."""

    kind: LeafKind = "p256"
    verified: bool = False
    answered: bool = False
    faultless: bool = False
    schemes: client_hello.Schemes = None

    def established(self, data: tls.TlsData) -> None:
        """The server's handshake is complete, and the server is used."""
        self.answered, judgement = True, _judgement(data)
        self.verified = judgement.outcome == "trust" if judgement is not None else _verified(data)
        self.faultless = self.verified and (judgement is None or judgement.kind is None)

    def failed(self, data: tls.TlsData) -> None:
        """The server is refused, for which it may have proved who it is, or it did not get that far: a certificate that
        did not verify is no better than any other failure."""
        judgement, made = _judgement(data), data.ssl_conn
        # A server that asks for a client certificate has shown its own, and its refusal has a class already.
        shown = judgement is not None or getattr(made, "certificate_wanted", False) or getattr(made, "cut", False)
        self.answered = bool(shown) or not _verified(data)
        self.verified = judgement is not None and judgement.proved
        self.faultless = False
        # mitmproxy's page for the client has this text and no other.
        proof = "" if self.answered else ", which must prove who it is"
        error, text = data.conn.error, f"no TLS with {data.context.server.sni}{proof}: {data.conn.error}"
        failure = facts_of(data.context.client).failure
        if isinstance(error, Sentence):
            text = error.within(text)
        elif not self.answered and (failure is None or failure.kind == _BROKEN):
            text = Sentence("server-unproven", text)
        data.conn.error = text


def _judgement(data: tls.TlsData) -> Judgement | None:
    """What the profile makes of the server; None for a connection that was not judged: a script's, one of our sites."""
    return data.ssl_conn.judgement if isinstance(data.ssl_conn, ServerConnection) else None


def _verified(data: tls.TlsData) -> bool:
    """What OpenSSL says of the server's certificate. Without one it has no complaint."""
    assert data.ssl_conn is not None
    result = SSL._lib.SSL_get_verify_result(data.ssl_conn._ssl)  # type: ignore[attr-defined]  # noqa: SLF001
    return bool(result == 0)  # X509_V_OK
