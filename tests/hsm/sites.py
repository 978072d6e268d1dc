"""Sites of inbound inspection: keys on a partition, certificates of them, and workers' requests."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from hsm.certificates.files import inbound_name
from hsm.schemes import SCHEMES
from hsm.signer.settings import InboundSettings
from hsm.uri import KeyURI
from hsm.wire.client import SignerClient
from hsm.wire.member import KeyFound
from hsm.wire.worker import InboundKeys, InboundTerms, TlsSign, TlsSigned
from tests.cas import public_key
from tests.softhsm import MODULE, PIN, Store

MESSAGE = b"a handshake"
_PUBLIC = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

_MAKE_DECRYPTING_KEY = """
import sys
from pkcs11 import Attribute, KeyType, Mechanism
from hsm.wire.member import Selector
from hsm.token.module import Module
from hsm.uri import KeyURI
module, label, pin, key = sys.argv[1:]
anchor = Module(module).token(Selector(label=label)).log_in(pin, writable=True)
hidden = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.SIGN: True, Attribute.DECRYPT: True}
anchor._session.generate_keypair(KeyType.RSA, 2048, mechanism=Mechanism.RSA_PKCS_KEY_PAIR_GEN, label=key,
                                 id=key.encode(), store=True, private_template=hidden)
print(anchor.key(KeyURI(object=key)).spki().hex())
"""


def add_decrypting_key(store: Store, label: str) -> None:
    """An RSA-2048 key on the partition that may decrypt, which the product itself never makes."""
    made = subprocess.run(
        [sys.executable, "-P", "-c", _MAKE_DECRYPTING_KEY, MODULE, store.label, PIN, label],
        env=os.environ | store.environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    rsa_schemes = [name for name in SCHEMES if name.startswith("rsa_")]
    spki = bytes.fromhex(made.stdout)
    store.keys[label] = KeyFound(spki=spki, schemes=rsa_schemes, guarded=True, decrypts=True)


def certify(store: Store, label: str, path: Path, *, ca: bool | None = False, days: int = 30) -> Path:
    """`path`, with a new certificate of the key `label` of `store` and the one of its issuer; a CA's, if `ca`, without
    BasicConstraints where None."""
    return write_certificate(public_key(store, label), label, path, ca=ca, days=days)


def write_certificate(
    public: object, name: str, path: Path, *, ca: bool | None = False, days: int = 30, issuer: bool = True
) -> Path:
    """`path`, with a certificate of any public key."""
    private = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    above = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Issuer")])

    def signed(key: object, subject: x509.Name, is_ca: bool | None) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above)
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=days))
        )
        if is_ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)

    leaf = signed(public, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), ca)
    path.write_bytes(leaf + (signed(private.public_key(), above, True) if issuer else b""))
    return path


def site_of(
    store: Store, label: str, directory: Path, *, site: str = "", decrypt: bool = False, holder: str = ""
) -> InboundSettings:
    """The site `label`.example.com, or `site`, with the key of that label and a certificate in `directory`."""
    title = site or f"{label}.example.com"
    path = certify(store, label, directory / f"{title}.pem")
    return InboundSettings(title, path, KeyURI(object=label), decrypt, holder)


def name_of(store: Store, label: str) -> str:
    """What the key is called on the wire."""
    return inbound_name(store.keys[label].spki)


def handshake(store: Store, label: str, scheme: str, message: bytes = MESSAGE) -> TlsSign:
    """What a worker asks for in a handshake."""
    return TlsSign(name_of(store, label), scheme, SCHEMES[scheme].digest(message))


async def signs(worker: SignerClient, store: Store, label: str, scheme: str) -> bool:
    """Whether the signer makes a handshake's signature that a client accepts."""
    signed = await worker.call(handshake(store, label, scheme), 10)
    assert isinstance(signed, TlsSigned)
    return SCHEMES[scheme].verifies(public_key(store, label), SCHEMES[scheme].digest(MESSAGE), signed.signature)


async def terms(worker: SignerClient) -> InboundTerms:
    """What a worker is told of the inbound keys."""
    told = await worker.call(InboundKeys(), 10)
    assert isinstance(told, InboundTerms)
    return told


def encrypted(store: Store, label: str, secret: bytes) -> bytes:
    """A client's premaster secret for the key."""
    public = public_key(store, label)
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(secret, padding.PKCS1v15())


def badly_padded(store: Store, label: str) -> dict[str, bytes]:
    """Ciphertexts whose padding is wrong in the ways of RFC 8017 section 7.2.2, and ones that nobody encrypted."""
    public = public_key(store, label)
    assert isinstance(public, rsa.RSAPublicKey)
    numbers, size = public.public_numbers(), public.key_size // 8

    def of(block: bytes) -> bytes:
        return pow(int.from_bytes(block), numbers.e, numbers.n).to_bytes(size)

    return {
        "first byte": of(b"\1\2" + b"\1" * (size - 51) + b"\0" + bytes(48)),
        "block type": of(b"\0\1" + b"\xff" * (size - 51) + b"\0" + bytes(48)),
        "no separator": of(b"\0\2" + b"\1" * (size - 2)),
        "short padding": of(b"\0\2" + b"\1" * 7 + b"\0" + bytes(size - 10)),
        "zero": bytes(size),
        "beyond the modulus": b"\xff" * size,
    }
