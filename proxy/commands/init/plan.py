"""What is missing for one CA, and what will be made: said before anything is."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import Struct

from hsm.certificates.issuer import load_issuer
from hsm.errors import MisconfiguredError
from hsm.schemes import PublicKey
from hsm.uri import KeyURI
from hsm.wire.member import KeyFound, KeyType, Opened
from hsm.wire.worker import Authority
from proxy.commands.init.files import certificate_name, key_label
from proxy.commands.init.wanted import Wanted
from proxy.commands.options import KEY_TYPE

_INSTEAD: tuple[KeyType, ...] = (KEY_TYPE, "p256", "rsa-4096", "rsa-2048", "p384")
"""Where nobody chose, the first that the partition makes."""
_TYPES = {"secp256r1": "p256", "secp384r1": "p384"}


class Plan(Struct, frozen=True, kw_only=True):
    """For one CA: `makes` is the type of the key to make, `found` the key that is there, `public` its public half.
    `certificate` is the file, which is to be made or `exists`."""

    name: Authority
    uri: KeyURI
    where: str
    makes: KeyType | None
    found: KeyFound
    public: PublicKey | None
    certificate: Path
    exists: bool

    @property
    def lines(self) -> list[str]:
        """What will be done, and what to know about a key that is used."""
        key = self.uri.object or str(self.uri)
        if self.makes:
            return [f"will make the key '{key}' ({self.makes}) on {self.where}, and {self.certificate}"]
        kind = type_of(self.public) if self.public else "its type is not told"
        made = "its certificate is there" if self.exists else f"make {self.certificate}"
        found = [f"will use the key '{key}' ({kind}) on {self.where}, and {made}"]
        if self.found.exposure:
            found.append(f"WARNING: the key '{key}' is not guarded: {self.found.exposure}")
        return found

    @property
    def complete(self) -> bool:
        """Whether all is there."""
        return not self.makes and self.exists


def certified(directory: Path, name: Authority) -> PublicKey | None:
    """The key of the certificate that is there already. Raises MisconfiguredError where that is no CA's."""
    path = directory / certificate_name(name)
    return load_issuer(path).key if path.exists() else None


def plan(wanted: Wanted, directory: Path, name: Authority, uri: KeyURI, opened: Opened) -> Plan:
    """What is to be done for one CA. Raises MisconfiguredError for what cannot be."""
    where, found, path = f"partition {opened.partition}", opened.keys[name], directory / certificate_name(name)
    exists, makes, public = path.exists(), None, public_of(found)
    if found.missing:
        if wanted.key(name) is not None:
            raise MisconfiguredError(f"--{name}-key: {found.problem}")
        if exists:
            raise MisconfiguredError(f"{path} exists, but its key '{key_label(name)}' is not on {where}")
        makes = _makeable(wanted, where, opened.makes)
    elif found.problem:
        raise MisconfiguredError(f"the key '{uri.object or uri}' on {where} cannot be used: {found.problem}")
    elif wanted.key_type is not None and public is not None and type_of(public) != wanted.key_type:
        raise MisconfiguredError(
            f"--key-type {wanted.key_type} has no effect: the key '{uri.object or uri}' on {where} is {type_of(public)}"
        )
    elif public is None and not exists:
        raise MisconfiguredError(
            f"the key '{uri.object or uri}' on {where} keeps no public half there, neither a public key object nor a "
            f"certificate with its label. Put one there with the HSM's own tool, or its CA certificate in {path}"
        )
    return Plan(
        name=name, uri=uri, where=where, makes=makes, found=found, public=public, certificate=path, exists=exists
    )


def _makeable(wanted: Wanted, where: str, makes: list[KeyType]) -> KeyType:
    """The type of key to make."""
    if not makes:
        raise MisconfiguredError(
            f"{where} lists no mechanisms that make a key and sign with it (RSA or EC); {advice('trust', 'untrust')}"
        )
    if wanted.key_type is None:
        return next(one for one in _INSTEAD if one in makes)
    if wanted.key_type not in makes:
        raise MisconfiguredError(
            f"--key-type {wanted.key_type}: {where} lists no mechanisms that make such a key and sign with it; it has "
            f"them for {', '.join(makes)}"
        )
    return wanted.key_type


def advice(*names: Authority) -> str:
    """The last word where a partition makes no keys."""
    labels = " and ".join(f"'{key_label(name)}'" for name in names)
    what = "two signing keys" if len(names) > 1 else "a signing key"
    return f"make {what} labelled {labels} with the HSM's own tool, then run init again"


def type_of(public: PublicKey) -> str:
    """Its type, as `--key-type` has it."""
    if isinstance(public, rsa.RSAPublicKey):
        return f"rsa-{public.key_size}"
    return _TYPES.get(public.curve.name, public.curve.name)


def public_of(found: KeyFound) -> PublicKey | None:
    """The public half of a key that was found, where the partition tells it."""
    public = load_der_public_key(found.spki) if found.spki else None
    return public if isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None
