"""Which names a leaf carries, with upstream certificates of every make."""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.certs import Cert

from addons.forward.leaf_names import leaf_names, requested_host
from hsm import names

_OWN = "192.0.2.1"
_START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@functools.cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(alternative: Sequence[x509.GeneralName | str], common_name: str | None = None) -> Cert:
    """An upstream certificate; plain strings stand for DNS names or addresses."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "some CA")]))
        .public_key(_key().public_key())
        .serial_number(1)
        .not_valid_before(_START)
        .not_valid_after(_START + dt.timedelta(days=90))
    )
    if alternative:
        general = [names.general_name(one) if isinstance(one, str) else one for one in alternative]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return Cert(builder.sign(_key(), SHA256()))


def _certificate_with_raw_names(der: bytes) -> Cert:
    """An upstream certificate whose subjectAltName holds these bytes, as no library of ours would write them."""
    kind = x509.SubjectAlternativeName.oid
    draft = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made elsewhere")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "some CA")]))
        .public_key(_key().public_key())
        .serial_number(1)
        .not_valid_before(_START)
        .not_valid_after(_START + dt.timedelta(days=90))
        .add_extension(x509.UnrecognizedExtension(kind, der), critical=False)
    )
    return Cert(draft.sign(_key(), SHA256()))


def _covered(host: str, found: Sequence[str]) -> bool:
    return any(names.covers(name, host) for name in found)


@pytest.mark.parametrize(
    ("sni", "server", "expected"),
    [
        ("www.example.com", "other.example", "www.example.com"),
        ("WWW.Example.COM.", None, "www.example.com"),
        (None, "connect.example", "connect.example"),
        ("", "connect.example", "connect.example"),
        (None, None, _OWN),
        (None, "", _OWN),
        ("exa mple.com", "connect.example", "connect.example"),
        ("localhost:8443", "localhost", "localhost"),
        ("-", "10.1.2.3", "10.1.2.3"),
        ("a" * 64 + ".example", "connect.example", "connect.example"),
        ("1.2.3.4.5", "..", _OWN),
        ("bücher.example", None, "xn--bcher-kva.example"),
        (None, "BÜCHER.example", "xn--bcher-kva.example"),
        (None, "[2001:DB8:0:0::1]", "2001:db8::1"),
        (None, "2001:db8::1", "2001:db8::1"),
        ("host_with_underscore.example", None, "host_with_underscore.example"),
    ],
)
def test_the_leaf_is_for_what_the_client_asked_for(sni: str | None, server: str | None, expected: str) -> None:
    """The SNI counts first, the CONNECT host second, our own address last; an impossible one is passed over."""
    assert requested_host(sni, server, _OWN) == expected


def test_an_own_address_of_ipv6_is_possible() -> None:
    """A transparent client without SNI over IPv6 gets a leaf for the address that it connected to."""
    assert requested_host(None, None, "2001:DB8::0:1") == "2001:db8::1"


def test_nothing_to_name_a_leaf_by_is_an_error() -> None:
    """A link-local client without SNI cannot get a certificate, and the reason says why."""
    with pytest.raises(ValueError, match="scope"):
        requested_host(None, None, "fe80::1%eth0")


def test_an_unverified_server_adds_no_name() -> None:
    """What an unverified certificate claims is never signed."""
    assert leaf_names("www.example.com", None) == ("www.example.com",)


def test_two_hosts_of_a_wildcard_certificate_share_a_leaf() -> None:
    """One signature serves every host of a wildcard certificate, whichever is asked for first."""
    first = _certificate(["*.example.com", "example.com", "*.example.net"])
    second = _certificate(["*.example.net", "example.com", "*.example.com"])
    shared = leaf_names("a.example.com", first)
    assert shared == leaf_names("b.example.com", second) == ("*.example.com", "*.example.net", "example.com")
    assert leaf_names("c.example.net", first) == ("*.example.net", "*.example.com", "example.com")


def test_a_host_that_the_certificate_names_adds_nothing() -> None:
    """A host of the upstream certificate's own list stands there once."""
    upstream = _certificate(["b.example.com", "a.example.com", "a.example.com"])
    assert leaf_names("a.example.com", upstream) == ("a.example.com", "b.example.com")


def test_the_common_name_is_the_host() -> None:
    """Whoever looks at the certificate reads the host that was asked for, and not another one of its server."""
    upstream = _certificate(["a.example.com", "b.example.com", "*.example.com", "192.0.2.7"])
    assert leaf_names("b.example.com", upstream)[0] == "b.example.com"
    assert leaf_names("c.example.com", upstream)[0] == "*.example.com"
    assert leaf_names("192.0.2.7", upstream)[0] == "192.0.2.7"


def test_a_host_that_the_certificate_does_not_cover_comes_first() -> None:
    """A client that used another name than the server's own (no hostname check) still gets its name, and first."""
    upstream = _certificate(["z.example.net", "*.example.com"])
    assert leaf_names("deep.a.example.com", upstream) == ("deep.a.example.com", "*.example.com", "z.example.net")


def test_addresses_are_carried() -> None:
    """A server that is reached by address keeps its addresses in the leaf."""
    upstream = _certificate(
        [x509.IPAddress(ipaddress.ip_address("2001:db8:0::1")), "192.0.2.7", "*.b.example", "example"]
    )
    assert leaf_names("192.0.2.7", upstream) == ("192.0.2.7", "*.b.example", "2001:db8::1", "example")


@pytest.mark.parametrize(
    "impossible",
    [
        x509.DNSName("*.com"),
        x509.DNSName("a.*.example.com"),
        x509.DNSName("f*.example.com"),
        x509.DNSName("with space.example.com"),
        x509.DNSName("-dash.example.com"),
        x509.DNSName(""),
        x509.DNSName("a" * 64 + ".example.com"),
        x509.DNSName(".".join(["a" * 60] * 5)),
        x509.DNSName("1.2.3.4.5"),
        x509.RFC822Name("admin@example.com"),
        x509.UniformResourceIdentifier("https://example.com/"),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dn.example.com")])),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x0c\x0bexample.com"),
    ],
    ids=str,
)
def test_names_that_no_leaf_may_carry_are_dropped(impossible: x509.GeneralName) -> None:
    """A strange entry in a server's certificate does not keep its hosts from being inspected."""
    upstream = _certificate([impossible, "www.example.com"])
    assert leaf_names("www.example.com", upstream) == ("www.example.com",)


@pytest.mark.parametrize(
    "other", [x509.UniformResourceIdentifier("bank.example"), x509.RFC822Name("bank.example")], ids=str
)
def test_only_dns_names_and_addresses_are_hosts(other: x509.GeneralName) -> None:
    """A URI or a mail domain in a server's certificate does not become a host of the leaf."""
    assert leaf_names("www.example.com", _certificate([other, "www.example.com"])) == ("www.example.com",)


@pytest.mark.parametrize(
    "entry", [b"\x82\x0eb\xfccher.example", b"\x87\x03\x01\x02\x03"], ids=["Latin-1 name", "address of 3 bytes"]
)
def test_an_entry_that_cannot_be_read_does_not_stop_inspection(entry: bytes) -> None:
    """OpenSSL verifies a host by the good names of a certificate that an in-house CA botched; so it gets its leaf."""
    good = b"\x82\x0fwww.example.com"
    upstream = _certificate_with_raw_names(b"\x30" + bytes([len(good + entry)]) + good + entry)
    assert _covered("www.example.com", leaf_names("www.example.com", upstream))


def test_a_lone_common_name_counts() -> None:
    """An old server whose certificate has a common name and nothing else is named by it."""
    assert leaf_names("www.example.com", _certificate([], "*.example.com")) == ("*.example.com",)
    assert leaf_names("www.example.com", _certificate([], "Example Server")) == ("www.example.com",)


def test_a_common_name_beside_alternative_names_does_not_count() -> None:
    """With alternative names present the common name is a label and no host (RFC 2818)."""
    upstream = _certificate(["www.example.com"], "other.example.com")
    assert leaf_names("www.example.com", upstream) == ("www.example.com",)


@pytest.mark.parametrize("host", ["h140.example.com", "x.wild.example", "absent.example"])
def test_a_certificate_of_150_names_gives_a_leaf_of_100_at_most(host: str) -> None:
    """A host of a large provider's certificate is covered, and the handshake stays small."""
    many = [f"h{number}.example.com" for number in range(149)]
    found = leaf_names(host, _certificate([*many, "*.wild.example"]))
    assert len(found) <= names.MAX_NAMES
    assert _covered(host, found)
    assert not set(found) & set(many) - {host}, "kilobytes of other hosts' names"


def test_a_full_list_makes_room_for_the_host() -> None:
    """A certificate of exactly 100 names that lacks the host gives 100 names with the host among them."""
    full = [f"h{number}.example.com" for number in range(names.MAX_NAMES)]
    found = leaf_names("absent.example", _certificate(full))
    assert len(found) == names.MAX_NAMES
    assert found[0] == "absent.example"


_LABELS = st.sampled_from(["a", "b", "www", "x-y", "_dmarc"])
_HOSTS = st.lists(_LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example"]))
_PATTERNS = (
    _HOSTS
    | _HOSTS.map(lambda host: f"*.{host}")
    | st.sampled_from(["*.example", "*", "", "A.B.EXAMPLE", "under_score.example."])
)
_ADDRESSES = st.ip_addresses().map(str)


@given(
    host=_HOSTS | _ADDRESSES,
    listed=st.lists(_PATTERNS | _ADDRESSES, max_size=130),
    filler=st.sampled_from([0, 0, 99, 100, 101, 150]),
    common_name=st.none() | _PATTERNS.filter(bool),
)
def test_a_leaf_always_covers_its_host(host: str, listed: list[str], filler: int, common_name: str | None) -> None:
    """Whatever a server's certificate holds, the leaf is valid for the host, has no name twice and 100 at most."""
    everything = [*listed, *(f"n{number}.filler.example" for number in range(filler))]
    entries = [names.general_name(name) for name in everything]
    found = leaf_names(host, _certificate(entries, common_name))
    assert _covered(host, found)
    assert len(set(found)) == len(found) <= names.MAX_NAMES
    assert [names.check(name) for name in found] == list(found), "the signer would refuse a name"
