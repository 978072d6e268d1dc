"""A TLS connection to a server that goes on whatever OpenSSL has to say of the certificate, and remembers all of it.

OpenSSL calls back for each complaint, and once for each certificate that is in order, which costs a microsecond; a good
server costs nothing else. Where a complaint means in any case that nothing will come of the connection it ends there
and then, with the alert that tells the server's operator why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct
from OpenSSL import SSL, crypto

from addons.policy.settings import Accept, Profile
from addons.records.facts import Verification
from addons.revocation.named import STRANGE
from addons.tls.pieces import PiecewiseConnection
from addons.upstream.faults import NO_ISSUER, is_incomplete
from addons.upstream.judge import ORDER, Judgement, Outcome, possible
from addons.upstream.repeated import Roots

_lib, _ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001  # not in pyOpenSSL's interface
_INDEX = _lib.SSL_get_ex_data_X509_STORE_CTX_idx()
_OUR_OWN_TROUBLE = frozenset({1, 17, 65, 69, 70})
"""X509_V_ERR_UNSPECIFIED, _OUT_OF_MEM, _INVALID_CALL, _STORE_LOOKUP and the like: nothing was verified at all."""


class Demand(Struct, frozen=True):
    """What is demanded of a server. `most` is the worst outcome that the connection can have and go on: "trust" where
    nobody can be shown anything else. `accepts` are those for this `host`. `strict`: OpenSSL looks at keys and digests,
    too (its security level is not lowered for old versions)."""

    host: str
    profile: Profile = Profile()
    accepts: Sequence[Accept] = ()
    most: Outcome = "trust"
    roots: Roots = Roots()
    strict: bool = True


class ServerConnection(PiecewiseConnection):
    """A connection to a server, with what is demanded of it and what was found. `judgement` is None before it is
    judged; `cut`: OpenSSL ended the handshake over the last of `complaints`. `incomplete`: the chain ends
    too early, in a certificate that says where the next one is; `completed` is the chain with that."""

    demand: Demand | None = None
    judgement: Judgement | None = None
    complaints: Sequence[Verification] = ()
    completed: list[x509.Certificate] | None = None
    cut = False
    incomplete = False

    def watch(self, demand: Demand) -> None:
        """Verify, and go on with what is wrong as far as `demand` has it."""
        self.demand = demand
        _lib.SSL_set_verify(self._ssl, SSL.VERIFY_PEER, _seen)

    def complain(self, said: Verification, top: Callable[[], x509.Certificate | None]) -> bool:
        """OpenSSL complains, of the certificate `top`. Whether to go on."""
        self.complaints = (*self.complaints, said)
        demand = self.demand
        assert demand is not None
        if said.code in NO_ISSUER and (above := top()) is not None:
            self.incomplete = self.incomplete or is_incomplete([above])
        hopeless = ORDER[possible(said.code, demand.profile, incomplete=self.incomplete)] > ORDER[demand.most]
        self.cut = said.code in _OUR_OWN_TROUBLE or (hopeless and not demand.accepts)
        return not self.cut

    @property
    def verification(self) -> Verification | None:
        """Of all that OpenSSL said, what weighs most, and its depth; None before the connection is judged."""
        if self.judgement is None:
            return self.complaints[-1] if self.complaints else None
        return self.judgement.worst or Verification(0, 0, "ok")

    @property
    def built(self) -> list[x509.Certificate]:
        """The chain that OpenSSL built, the server's own first."""
        return _read(self.get_verified_chain())

    @property
    def whole(self) -> list[bytes]:
        """The chain up to its root (DER), completed or as OpenSSL built it: each connection asks for this."""
        if self.completed is not None:
            return [one.public_bytes(Encoding.DER) for one in self.completed]
        return [crypto.dump_certificate(crypto.FILETYPE_ASN1, one) for one in self.get_verified_chain() or ()]

    @property
    def sent(self) -> list[x509.Certificate]:
        """What the server has sent, its own first."""
        return _read(self.get_peer_cert_chain())


def _read(chain: Sequence[crypto.X509] | None) -> list[x509.Certificate]:
    """What cannot be read of a chain is left out with all that comes behind it."""
    found = []
    for one in chain or ():
        try:
            found.append(one.to_cryptography())
        except STRANGE:
            break
    return found


@_ffi.callback("int (*)(int, X509_STORE_CTX *)")  # type: ignore[untyped-decorator]
def _seen(ok: int, found: object) -> int:
    if ok:
        return 1
    connection = SSL.Connection._reverse_mapping.get(_lib.X509_STORE_CTX_get_ex_data(found, _INDEX))  # noqa: SLF001  # as its own callbacks do
    if not isinstance(connection, ServerConnection):
        return 0
    code = _lib.X509_STORE_CTX_get_error(found)
    words = _ffi.string(_lib.X509_verify_cert_error_string(code)).decode()
    said = Verification(code, _lib.X509_STORE_CTX_get_error_depth(found), words)
    return int(connection.complain(said, lambda: _current(found)))


def _current(found: object) -> x509.Certificate | None:
    """The certificate that OpenSSL complains of; None for one that cannot be read."""
    pointer = _lib.X509_STORE_CTX_get_current_cert(found)
    if pointer == _ffi.NULL or not _lib.X509_up_ref(pointer):
        return None
    try:
        return crypto.X509._from_raw_x509_ptr(pointer).to_cryptography()  # noqa: SLF001  # as pyOpenSSL's own callbacks
    except STRANGE:
        return None
