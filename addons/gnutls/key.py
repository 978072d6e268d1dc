"""A private key that lives elsewhere, as GnuTLS asks it to sign and decrypt. It knows no certificates and no sessions.

GnuTLS calls the key while a handshake runs, on that handshake's thread; what a callable raised waits there
(`library.left`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from addons.gnutls.library import INTERNAL_ERROR, PK_SIGN_FAILED, callback, ffi, fill, leave, load, require
from hsm.schemes import SCHEMES, Form, PublicKey, Scheme, certificate_scheme

Sign = Callable[[str, bytes], bytes]
"""Scheme name (`hsm.schemes.SCHEMES`) and digest of the scheme's size -> signature; ECDSA in DER. May block."""
Decrypt = Callable[[bytes], bytes]
"""RSA ciphertext (PKCS#1 v1.5, as long as the modulus) -> plaintext. May block."""

_RSA_RAW = 36  # GNUTLS_SIGN_RSA_RAW: what is to be signed is a DigestInfo (RFC 8017 section 9.2)
_ALGORITHMS = {  # gnutls_sign_algorithm_t. ECDSA has two numbers: TLS 1.2 ties no curve to a digest, TLS 1.3 does.
    6: "rsa_pkcs1_sha256",
    7: "rsa_pkcs1_sha384",
    8: "rsa_pkcs1_sha512",
    40: "rsa_pss_rsae_sha256",
    41: "rsa_pss_rsae_sha384",
    42: "rsa_pss_rsae_sha512",
    14: "ecdsa_secp256r1_sha256",
    37: "ecdsa_secp256r1_sha256",
    15: "ecdsa_secp384r1_sha384",
    38: "ecdsa_secp384r1_sha384",
}
_PK_RSA, _PK_ECDSA = 1, 4
_PREHASHED = Form(0x1, whole=False)  # CKM_RSA_PKCS over a DigestInfo
_PREMASTER_SIZE = 48  # RFC 5246 section 7.4.7.1


class RemoteKey:
    """One key. It may serve any number of credentials and threads at once."""

    def __init__(
        self, public: PublicKey, sign: Sign, decrypt: Decrypt | None = None, schemes: Collection[str] = tuple(SCHEMES)
    ) -> None:
        """`schemes` are those that the key's token can make; the ones that do not fit the key are left out.

        Whatever `sign` raises ends the handshake. Whatever `decrypt` raises makes the handshake go on with a random
        premaster secret, and fail at the client's Finished: a client must not learn whether its padding was right
        (RFC 5246 section 7.4.7.1). Raises ValueError for a kind or size of key that we do not sign with.
        """
        certificate_scheme(public)
        self.public = public
        self.kind: Literal["RSA", "ECDSA"] = "RSA" if isinstance(public, rsa.RSAPublicKey) else "ECDSA"
        self.decrypts = decrypt is not None
        self.served = True
        """Whether anybody can sign with it, as far as is known."""
        self._sign = sign
        self._decrypt = decrypt
        self.offer(schemes)
        # An ECDSA signature is two numbers of the curve's size and less than 16 bytes of DER.
        self._longest = public.key_size // 8 * (1 if self.kind == "RSA" else 2) + 16

    def offer(self, schemes: Collection[str]) -> None:
        """Handshakes from now on use `schemes`, those of them that fit the key."""
        self._schemes = {name: one for name, one in SCHEMES.items() if name in schemes and one.fits(self.public)}
        self.served = bool(self._schemes)

    def withhold(self) -> None:
        """Nobody can sign with it now. It goes on offering what it did: without that GnuTLS does not resume sessions of
        TLS 1.3, for which nobody signs."""
        self.served = False

    @property
    def speaks_tls_1_3(self) -> bool:
        """Whether one of its schemes signs a TLS 1.3 handshake: RSA PKCS#1 v1.5 does not (RFC 8446 section 4.2.3)."""
        return any(one.family != "rsa_pkcs1" for one in self._schemes.values())

    def import_into(self, private_key: Any) -> Any:
        """Make the gnutls_privkey_t `private_key` ask this object. Returns a handle that must outlive `private_key`.

        Raises MisconfiguredError where GnuTLS does not take it.
        """
        handle = ffi.new_handle(self)
        decrypt = _on_decrypt.native if self.decrypts else ffi.NULL
        # For RSA and ECDSA keys GnuTLS never calls sign_data.
        functions = ffi.NULL, _on_sign_hash.native, decrypt, ffi.NULL, _on_info.native
        require(load().gnutls_privkey_import_ext4(private_key, handle, *functions, 0), "a key")
        return handle

    def sign(self, algorithm: int, content: bytes) -> bytes:
        """GnuTLS's `algorithm` over `content`: a digest, or a DigestInfo for PKCS#1 v1.5."""
        scheme, digest = self._scheme(algorithm, content)
        signature = self._sign(scheme.name, digest)
        # A length that the record layer could not carry must not get as far as GnuTLS.
        if not isinstance(signature, bytes) or not 0 < len(signature) <= self._longest:
            raise ValueError("the signer's answer is no signature")
        return signature

    def _scheme(self, algorithm: int, content: bytes) -> tuple[Scheme, bytes]:
        if algorithm == _RSA_RAW:
            for scheme in self._schemes.values():
                digest = content[-scheme.digest_size :]
                if scheme.family == "rsa_pkcs1" and _PREHASHED.payload(scheme, digest, None) == content:
                    return scheme, digest
        elif (found := self._schemes.get(_ALGORITHMS.get(algorithm, ""))) and len(content) == found.digest_size:
            return found, content
        raise ValueError(f"GnuTLS asked for algorithm {algorithm} over {len(content)} bytes, which this key cannot do")

    def premaster(self, ciphertext: bytes) -> bytes:
        """The premaster secret in `ciphertext`, 48 bytes; random ones where there is none."""
        instead = secrets.token_bytes(_PREMASTER_SIZE)
        try:
            assert self._decrypt is not None
            found = self._decrypt(ciphertext)
        except BaseException as error:  # noqa: BLE001  # any may come from the callable, and none may be seen
            leave(error)
            return instead
        return found if len(found) == _PREMASTER_SIZE else instead

    def info(self, flags: int) -> int:
        """What GnuTLS asks about the key (gnutls_privkey_info_func): -1 for what it does not know."""
        if flags & 1:  # GNUTLS_PRIVKEY_INFO_PK_ALGO
            return _PK_RSA if self.kind == "RSA" else _PK_ECDSA
        if flags & 4:  # GNUTLS_PRIVKEY_INFO_HAVE_SIGN_ALGO, the algorithm above bit 20
            return int(_ALGORITHMS.get(flags >> 20, "") in self._schemes)
        if flags & 8:  # GNUTLS_PRIVKEY_INFO_PK_ALGO_BITS
            return self.public.key_size
        return -1


@callback("gnutls_privkey_sign_func", error=PK_SIGN_FAILED)
def _on_sign_hash(_key: Any, algorithm: int, userdata: Any, _flags: int, content: Any, signature: Any) -> int:
    try:
        made = ffi.from_handle(userdata).sign(algorithm, ffi.buffer(content.data, content.size)[:])
        return fill(signature, made)
    except BaseException as error:  # noqa: BLE001  # C cannot pass it on
        leave(error)
        return PK_SIGN_FAILED


@callback("gnutls_privkey_decrypt_func", error=INTERNAL_ERROR)
def _on_decrypt(_key: Any, userdata: Any, ciphertext: Any, plaintext: Any) -> int:
    # GnuTLS 3.7 looks at `plaintext` even where decryption failed, and does not clear it before.
    plaintext.data, plaintext.size = ffi.NULL, 0
    try:
        return fill(plaintext, ffi.from_handle(userdata).premaster(ffi.buffer(ciphertext.data, ciphertext.size)[:]))
    except BaseException as error:  # noqa: BLE001  # C cannot pass it on
        leave(error)
        return INTERNAL_ERROR


@callback("gnutls_privkey_info_func", error=-1)
def _on_info(_key: Any, flags: int, userdata: Any) -> int:
    return int(ffi.from_handle(userdata).info(flags))
