"""What the two CAs are called. No I/O."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from hsm.schemes import PublicKey
from hsm.wire.worker import Authority

CN_LENGTH = 64
"""Characters of a common name at most (RFC 5280 appendix A.1, ub-common-name)."""
SUFFIX = ": server not verified"
"""Behind the name of the CA that clients do not trust: who is shown its certificate reads why."""


def common_name(name: x509.Name) -> str | None:
    """The CN, None where there is none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else None


def subject(authority: Authority, public: PublicKey, wanted: str | None) -> x509.Name:
    """The subject of a CA with this key: `wanted` (RFC 4514), or a name of ours; the key is in ours, so that a CA that
    is made anew is another one."""
    name = x509.Name([]) if wanted is None else x509.Name.from_rfc4514_string(wanted)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public).digest.hex()[:8]
    called = common_name(name) or f"hsmitm forward {authority} CA {identifier}"
    if authority == "untrust":
        called += SUFFIX
    others = [one for one in name if one.oid != NameOID.COMMON_NAME]
    return x509.Name([*others, x509.NameAttribute(NameOID.COMMON_NAME, called[:CN_LENGTH])])
