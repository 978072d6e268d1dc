"""What a TLS server of one site presents and demands: certificates, clients' certificates, versions, ciphers, tickets.

It knows no connections. One object serves any number of them, on any threads; connections made from it keep it alive.
"""

from __future__ import annotations

import datetime as dt
import functools
import hmac
from collections.abc import Sequence
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509 import ocsp
from msgspec import Struct, structs

from addons.gnutls.key import RemoteKey
from addons.gnutls.library import (
    CERTIFICATE_VERIFICATION_ERROR,
    INTERNAL_ERROR,
    NO_CERTIFICATE_STATUS,
    callback,
    check,
    datum,
    ffi,
    fill,
    leave,
    load,
    require,
    text,
)
from addons.tls.protocol import Protocol
from hsm.errors import MisconfiguredError

TICKET_KEY_SIZE = 64
"""Bytes. GnuTLS derives a new key from it every 18 hours and goes on reading the tickets of the one before."""

_DER, _CRD_CERTIFICATE, _CERT_REQUEST, _CERT_REQUIRE = 0, 1, 1, 2
_SKIP_KEY_CERT_MATCH, _API_V2 = 1, 2  # gnutls_certificate_flags
_SEC_PARAM_MEDIUM = 35  # 112 bits: RFC 7919's ffdhe2048
_PURPOSE = ffi.new("char[]", b"1.3.6.1.5.5.7.3.2")  # id-kp-clientAuth, RFC 5280 section 4.2.1.12
_PURPOSES = ffi.new("gnutls_typed_vdata_st[1]", [{"type": 2, "data": ffi.cast("unsigned char *", _PURPOSE)}])


class Certificate(NamedTuple):
    """One certificate of a site: its chain in DER, leaf first, and the leaf's key."""

    chain: Sequence[bytes]
    key: RemoteKey


class ClientCertificates(Struct, frozen=True):
    """Ask clients for a certificate of one of `authorities` (DER), and refuse those that show none if `required`."""

    authorities: tuple[bytes, ...]
    required: bool


class Credentials:
    """What the TLS server of one site presents, and what it demands of clients."""

    def __init__(
        self,
        certificates: Sequence[Certificate],
        *,
        protocol: Protocol | None = None,
        client_certificates: ClientCertificates | None = None,
        ticket_key: bytes | None = None,
    ) -> None:
        """`certificates` in order of preference; a client gets the first one that it can verify, and rather one that
        carries the name it asked for. `ticket_key` is what `use_ticket_key` takes.

        Raises MisconfiguredError for what does not fit together, or where GnuTLS is missing.
        """
        protocol = protocol or Protocol()
        if not certificates:
            raise MisconfiguredError("a site needs a certificate")
        if protocol.rsa_key_exchange and not all(one.key.decrypts for one in certificates if one.key.kind == "RSA"):
            raise MisconfiguredError("RSA key exchange needs RSA keys that may decrypt")
        self._leaves = [_leaf(one) for one in certificates]
        self._client_certificates = client_certificates
        self._staples = [_Staple() for _ in certificates]
        priorities = protocol.priorities([one.key.kind for one in certificates], hybrid=has_hybrid_group())
        self._priorities = self._without_1_3 = _priorities(priorities)
        self._keys = [one.key for one in certificates]
        if protocol.minimum == "TLS1.2":
            older = structs.replace(protocol, maximum="TLS1.2")
            self._without_1_3 = _priorities(older.priorities([one.kind for one in self._keys]))
        self._native = _allocate()
        self._handles: list[Any] = []  # what GnuTLS has the addresses of
        for index, one in enumerate(certificates):
            staple = ffi.new_handle(self._staples[index])
            self._handles += [_add(self._native, one), staple]
            load().gnutls_certificate_set_ocsp_status_request_function2(self._native, index, _on_ocsp.native, staple)
        # For TLS 1.2 clients that offer DHE and name no group of RFC 7919.
        require(load().gnutls_certificate_set_known_dh_params(self._native, _SEC_PARAM_MEDIUM), "DH parameters")
        for authority in client_certificates.authorities if client_certificates else ():
            if load().gnutls_certificate_set_x509_trust_mem(self._native, datum(authority), _DER) != 1:
                raise MisconfiguredError("the CA file for client certificates has a certificate that does not parse")
        leaves = [one.chain[0] for one in certificates]
        self._terms = repr((leaves, client_certificates, priorities)).encode()
        self._ticket_key: Any = None
        self.use_ticket_key(ticket_key)

    def use_ticket_key(self, key: bytes | None) -> None:
        """Have connections made from now on resume by tickets under `key` (64 secret bytes), or not at all.

        Every process that is given the same key for the same site resumes the others' sessions. Sites may share it:
        what GnuTLS gets is bound to the certificates and terms of this one, because it would otherwise resume another
        site's session here, past a demand for a client certificate. So replacing a certificate ends resumption, too.
        """
        if key is not None and len(key) != TICKET_KEY_SIZE:
            raise ValueError(f"a ticket key of {len(key)} bytes; use {TICKET_KEY_SIZE}")
        self._ticket_key = datum(hmac.digest(key, self._terms, "sha512")) if key is not None else None

    def staple(self, index: int, response: bytes | None) -> None:
        """Have handshakes from now on carry an OCSP response (DER, RFC 6066 section 8) with the certificate `index`.

        It is left out once it has expired: a client rejects an old one, and most take none for an answer. Raises
        ValueError where it is no response for that certificate.
        """
        staple = self._staples[index]
        if response is None:
            staple.current = (b"", None)
            return
        parsed = ocsp.load_der_ocsp_response(response)
        if parsed.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise ValueError(f"the OCSP responder answered {parsed.response_status.name}")
        if parsed.serial_number != self._leaves[index].serial_number:
            raise ValueError("the OCSP response is for another certificate")
        staple.current = (response, parsed.next_update_utc)

    def apply(self, session: Any) -> None:
        """Set up the gnutls_session_t `session`; its owner keeps this object for as long as the session."""
        library = load()
        # GnuTLS looks at the keys when it gets them; what they make may change later, and then it would choose TLS 1.3
        # first and find no scheme for it afterwards.
        speaks_1_3 = any(key.speaks_tls_1_3 for key in self._keys)
        priorities = self._priorities if speaks_1_3 else self._without_1_3
        check(library.gnutls_priority_set(session, priorities), "priorities")
        check(library.gnutls_credentials_set(session, _CRD_CERTIFICATE, self._native), "credentials")
        if self._client_certificates:
            request = _CERT_REQUIRE if self._client_certificates.required else _CERT_REQUEST
            library.gnutls_certificate_server_set_request(session, request)
            library.gnutls_session_set_verify_function(session, _on_client_certificate.native)
        if (ticket_key := self._ticket_key) is not None:
            check(library.gnutls_session_ticket_enable_server(session, ticket_key), "tickets")


def _leaf(certificate: Certificate) -> x509.Certificate:
    try:
        leaf = x509.load_der_x509_certificate(certificate.chain[0])
        public = leaf.public_key()
    except (ValueError, IndexError) as error:
        raise MisconfiguredError(f"a certificate that does not parse: {error}") from error
    if public != certificate.key.public:
        raise MisconfiguredError(f"the certificate of {leaf.subject.rfc4514_string()} is not for the key it is given")
    return leaf


@functools.cache
def has_hybrid_group() -> bool:
    """Whether GnuTLS has X25519MLKEM768: from 3.8.8 on, where its distribution built it with ML-KEM."""
    made = ffi.new("void **")
    words = b"NONE:+VERS-TLS1.3:+AEAD:+AES-128-GCM:+SIGN-ALL:+CTYPE-X509:+GROUP-X25519-MLKEM768"
    if load().gnutls_priority_init(made, words, ffi.NULL) < 0:
        return False
    load().gnutls_priority_deinit(made[0])
    return True


def _priorities(words: str) -> Any:
    made = ffi.new("void **")
    require(load().gnutls_priority_init(made, words.encode(), ffi.NULL), f"the protocol {words}")
    return ffi.gc(made[0], load().gnutls_priority_deinit)


def _allocate() -> Any:
    made = ffi.new("void **")
    require(load().gnutls_certificate_allocate_credentials(made), "credentials")
    # The certificates were compared with their keys; GnuTLS would do that by having the HSM sign.
    load().gnutls_certificate_set_flags(made[0], _SKIP_KEY_CERT_MATCH | _API_V2)
    return ffi.gc(made[0], load().gnutls_certificate_free_credentials)


def _add(credentials: Any, certificate: Certificate) -> Any:
    """Returns a handle that must outlive `credentials`."""
    library = load()
    chain, key = ffi.new("gnutls_pcert_st[]", len(certificate.chain)), ffi.new("void **")
    try:
        for index, der in enumerate(certificate.chain):
            if library.gnutls_pcert_import_x509_raw(chain + index, datum(der), _DER, 0) < 0:
                raise MisconfiguredError(f"certificate {index + 1} of a chain does not parse")
        require(library.gnutls_privkey_init(key), "a key")
        handle = certificate.key.import_into(key[0])
        code = library.gnutls_certificate_set_key(credentials, ffi.NULL, 0, chain, len(chain), key[0])
        require(code, "a certificate")
    except BaseException:
        for index in range(len(chain)):
            library.gnutls_pcert_deinit(chain + index)
        library.gnutls_privkey_deinit(key[0])
        raise
    return handle  # and the credentials own what chain and key point to


class _Staple:
    """The OCSP response of one certificate, replaced in one step while handshakes read it."""

    def __init__(self) -> None:
        self.current: tuple[bytes, dt.datetime | None] = (b"", None)

    def fresh(self) -> bytes:
        response, expires = self.current
        return response if expires is None or expires > dt.datetime.now(dt.UTC) else b""


@callback("gnutls_status_request_ocsp_func", error=NO_CERTIFICATE_STATUS)
def _on_ocsp(_session: Any, userdata: Any, response: Any) -> int:
    response.data, response.size = ffi.NULL, 0
    found = ffi.from_handle(userdata).fresh()
    return fill(response, found) if found else NO_CERTIFICATE_STATUS


@callback("gnutls_certificate_verify_function", error=INTERNAL_ERROR)
def _on_client_certificate(session: Any) -> int:
    library = load()
    if not library.gnutls_certificate_get_peers(session, ffi.new("unsigned int *")):
        return 0  # whether one is required, GnuTLS knows
    status = ffi.new("unsigned int *")
    code = int(library.gnutls_certificate_verify_peers(session, _PURPOSES, 1, status))
    if code < 0 or not status[0]:
        return code
    words = ffi.new("gnutls_datum_t *")
    if library.gnutls_certificate_verification_status_print(status[0], 1, words, 0) == 0:
        leave(ValueError("the client's certificate: " + text(ffi.cast("char *", words.data)).strip()))
        library.gnutls_free(words.data)
    return CERTIFICATE_VERIFICATION_ERROR
