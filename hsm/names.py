"""Names of hosts, and those of them that a leaf may carry: DNS names as A-labels, with one left-most wildcard, and IP
addresses. No I/O, but for the public suffix list, which is read once.

The signer checks every name of a mint with `check_leaf`; the worker uses the same function first, so that a name that
cannot be signed costs no request.
"""

from __future__ import annotations

import functools
import ipaddress
import re

from cryptography import x509
from publicsuffixlist import PublicSuffixList

MAX_NAMES = 100
"""Names of one leaf. A handshake with more grows past what a client's first flight should carry (100 names: ~3 KiB)."""

_LONGEST = 254
"""253 characters and the trailing dot (RFC 1035 section 3.1)."""
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def check(text: str) -> str:
    """`text` in its canonical form: lower case, without a trailing dot; an IP address as RFC 5952 writes it.

    Raises ValueError with the reason. Underscores are let through (RFC 1035 hosts have none, but servers do and
    clients accept them); a wildcard needs two labels behind it, for `*.com` would stand for half the internet.
    """
    if len(text) > _LONGEST:  # before anything is remembered: clients choose what is asked
        raise ValueError(f"a name of {len(text)} characters; 1 to 253 are possible (RFC 1035)")
    return _canonical(text)


@functools.lru_cache(2048)
def _canonical(text: str) -> str:
    """Remembered: each connection to a known host has the same few names checked again."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
            raise ValueError(f"{text!r} has a scope; a certificate cannot carry that")
        return str(address)
    if not text.isascii():  # before lower(), which folds some letters of other scripts to ASCII
        raise ValueError(f"{text!r} is no part of a host name; international names are written as A-labels (xn--)")
    name = text.removesuffix(".").lower()
    if not name or len(name) > 253:
        raise ValueError(f"a name of {len(name)} characters; 1 to 253 are possible (RFC 1035)")
    labels = name.split(".")
    plain = labels[1:] if labels[0] == "*" else labels
    if labels[0] == "*" and len(plain) < 2:
        raise ValueError(f"{name!r}: a wildcard needs at least two labels behind it")
    for label in plain:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{name!r} has the label {label!r}, which is no part of a host name")
    if plain[-1].isdigit():
        raise ValueError(f"{name!r} ends in a number: neither an IP address nor a host name")
    return name


def check_leaf(text: str) -> str:
    """`check`, and nothing that stands for more than one owner's hosts.

    Raises ValueError for a top-level domain itself, and for a wildcard right below a public suffix: `*.co.uk` and
    `*.github.io` are everybody's. Suffixes are those of publicsuffix.org, of registries and of companies alike; a
    single label and a domain that the list does not know (`intranet`, `*.corp.internal`) are the operator's own. A
    suffix of two labels or more may be a host itself: `gov.uk` and `github.io` are.
    """
    name = check(text)
    if name.startswith("*."):
        # A rule such as *.kawasaki.jp makes a suffix of whatever label stands in the place of the wildcard.
        if public_suffixes().is_public(name[2:]) or public_suffixes().is_public(f"hsmitm{name[1:]}"):
            raise ValueError(f"{name!r}: a wildcard of a public suffix stands for hosts of many owners")
    elif "." not in name and ":" not in name and public_suffixes().is_public(name):
        raise ValueError(f"{name!r} is a top-level domain; ask for a host below it by its full name")
    return name


@functools.cache
def public_suffixes() -> PublicSuffixList:
    """The list of publicsuffix.org: reading it takes 30 ms, which the signer spends when it starts."""
    return PublicSuffixList(accept_unknown=False)


def to_ascii(host: str) -> str:
    """A host as a CONNECT request or an SNI gives it, as a checked name. Raises ValueError.

    The standard library's IDNA 2003 codec, not the `idna` package: the connection to the server and its verification
    use that codec too, and a leaf must carry the very name that was verified.
    """
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as error:
            raise ValueError(f"{host!r} has no IDNA form: {error}") from error
    if host.startswith("[") and host.endswith("]"):  # an IPv6 address as a URI writes it
        host = host[1:-1]
    return check(host)


def general_name(name: str) -> x509.GeneralName:
    """A checked name as subjectAltName carries it (RFC 5280 section 4.2.1.6)."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def covers(pattern: str, name: str) -> bool:
    """Whether a certificate's `pattern` is valid for the host `name` (RFC 9525 section 6.3; both checked)."""
    if pattern == name:
        return True
    if not pattern.startswith("*."):
        return False
    first, _, rest = name.partition(".")
    return bool(first) and rest == pattern[2:]
