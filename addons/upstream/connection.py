"""A TLS connection to a server that goes on whatever OpenSSL has to say of the certificate, and remembers all of it.

OpenSSL calls back for each complaint, and once for each certificate that is in order, which costs a microsecond; a good
server costs nothing else. Where a complaint means in any case that nothing will come of the connection it ends there
and then, with the alert that tells the server's operator why.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from msgspec import Struct
from OpenSSL import SSL

from addons.policy.settings import Accept, Profile
from addons.records.facts import Verification
from addons.tls.pieces import PiecewiseConnection
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
    judged; `cut`: OpenSSL ended the handshake over the last of `complaints`. `completed` is the chain with what the
    server did not send."""

    demand: Demand | None = None
    judgement: Judgement | None = None
    complaints: list[Verification]
    completed: list[x509.Certificate] | None = None
    cut = False

    def watch(self, demand: Demand) -> None:
        """Verify, and go on with what is wrong as far as `demand` has it."""
        self.demand, self.complaints = demand, []
        _lib.SSL_set_verify(self._ssl, SSL.VERIFY_PEER, _seen)

    def complain(self, code: int, depth: int, words: str) -> bool:
        """OpenSSL complains. Whether to go on."""
        self.complaints.append(Verification(code, depth, words))
        demand = self.demand
        assert demand is not None
        if code in _OUR_OWN_TROUBLE or (
            not demand.accepts and ORDER[possible(code, demand.profile)] > ORDER[demand.most]
        ):
            self.cut = True
        return not self.cut

    @property
    def built(self) -> list[x509.Certificate]:
        """The chain that OpenSSL built, the server's own first; what cannot be read of it is left out with all that
        comes behind it."""
        found = []
        for one in self.get_verified_chain() or []:
            try:
                found.append(one.to_cryptography())
            except ValueError:
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
    return int(connection.complain(code, _lib.X509_STORE_CTX_get_error_depth(found), words))
