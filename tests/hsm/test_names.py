"""Names that a leaf may carry."""

from __future__ import annotations

import ipaddress
import string

import pytest
from cryptography import x509
from hypothesis import assume, given
from hypothesis import strategies as st

from hsm import names

LABEL = st.from_regex(names._LABEL, fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=5).map(".".join).filter(lambda host: len(host) <= 253)
SHAPED = st.text(st.sampled_from(string.ascii_letters + string.digits + ".-_*:[]% \u00e9\u212a"), max_size=40)
ANYTHING = st.text() | SHAPED | HOST | HOST.map("*.{}".format) | st.ip_addresses().map(str)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("example.com", "example.com"),
        ("WWW.Example.COM", "www.example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_dmarc.my_host.example", "_dmarc.my_host.example"),
        ("*.example.com", "*.example.com"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
        ("1.2.3.example", "1.2.3.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::0001", "2001:db8::1"),
        ("::", "::"),
    ],
)
def test_accepts(text: str, canonical: str) -> None:
    """A name that servers really have is accepted, in one spelling."""
    assert names.check(text) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "0 characters"),
        (".", "0 characters"),
        (".".join(["a" * 63] * 3 + ["b" * 62]), "254 characters"),
        ("a" * 64 + ".example", "the label"),
        ("a..example", "the label ''"),
        (".example.com", "the label ''"),
        ("example.com..", "the label ''"),
        ("-a.example", "the label '-a'"),
        ("a-.example", "the label 'a-'"),
        ("a b.example", "the label 'a b'"),
        ("example.com\n", "the label"),
        ("example.com\0", "the label"),
        ("b\u00fccher.example", "no part of a host name"),
        ("*", "at least two labels"),
        ("*.com", "at least two labels"),
        ("*.com.", "at least two labels"),
        ("*.*.example", "the label '\\*'"),
        ("a.*.example", "the label '\\*'"),
        ("a*.example.com", "the label 'a\\*'"),
        ("1.2.3", "ends in a number"),
        ("256.0.0.1", "ends in a number"),
        ("192.0.2.1.", "ends in a number"),
        ("*.2.0.192", "ends in a number"),
        ("192.0.2.0/24", "the label"),
        ("[2001:db8::1]", "the label"),
        ("fe80::1%eth0", "scope"),
        ("example.com:443", "the label"),
        ("https://example.com", "the label"),
    ],
)
def test_refuses(text: str, why: str) -> None:
    """A name that no leaf may carry is refused with the reason."""
    with pytest.raises(ValueError, match=why):
        names.check(text)


def test_nothing_long_is_remembered() -> None:
    """What a client makes up cannot fill the memory: a name that is too long is refused unread."""
    before = names._canonical.cache_info()
    with pytest.raises(ValueError, match="a name of 65535 characters"):
        names.check("a" * 65535)
    assert names._canonical.cache_info() == before
    assert before.maxsize == 2048
    assert names.check(("a" * 49 + ".") * 5 + "abc") == ("a" * 49 + ".") * 5 + "abc"  # 253 characters
    assert names.check(("a" * 49 + ".") * 5 + "abc.") == ("a" * 49 + ".") * 5 + "abc"


def test_refuses_letters_that_only_look_ascii() -> None:
    """A name with a Kelvin sign is not one with a k: only A-labels are signed, whatever lower-casing makes of it."""
    with pytest.raises(ValueError, match="no part of a host name"):
        names.check("ban\u212a.example")


@pytest.mark.parametrize(
    "text",
    [
        "com", "COM.", "uk", "onion", "arpa", "xn--p1ai", "google",
        "*.co.uk", "*.CO.UK.", "*.github.io", "*.gov.uk", "*.home.arpa", "*.xn--55qx5d.cn", "*.s3.amazonaws.com",
        "*.kawasaki.jp", "*.any.kawasaki.jp", "*.any.ck", "*.compute.amazonaws.com",
    ],
)  # fmt: skip
def test_refuses_what_is_everybodys(text: str) -> None:
    """No leaf stands for a top-level domain, nor for whoever has a name below a public suffix: a registry's or a
    company's, in any spelling, also one that the list itself gives by a wildcard."""
    with pytest.raises(ValueError, match=r"a top-level domain; ask|stands for hosts of many owners"):
        names.check_leaf(text)
    assert names.check(text), "it is a name all the same: a site of the operator's own may have it"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("intranet", "intranet"),
        ("localhost", "localhost"),
        ("host.corp", "host.corp"),
        ("*.corp.internal", "*.corp.internal"),
        ("*.svc.cluster.local", "*.svc.cluster.local"),
        ("*.Example.co.uk", "*.example.co.uk"),
        ("user.github.io", "user.github.io"),
        ("*.user.github.io", "*.user.github.io"),
        ("gov.uk", "gov.uk"),
        ("github.io", "github.io"),
        ("*.city.kawasaki.jp", "*.city.kawasaki.jp"),
        ("*.www.ck", "*.www.ck"),
        ("*.xn--bcher-kva.example", "*.xn--bcher-kva.example"),
        ("printer.home.arpa", "printer.home.arpa"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_a_leaf_may_carry_what_has_one_owner(text: str, name: str) -> None:
    """Hosts and wildcards below somebody's own name are signed, an operator's internal ones and addresses among them,
    and so are hosts that are called like a suffix of their own."""
    assert names.check_leaf(text) == name


@given(HOST)
def test_a_host_below_a_name_of_ones_own_is_always_signed(host: str) -> None:
    """Whatever stands below a name that no public suffix list knows is its owner's business."""
    name = f"{host[:200].strip('.')}.corp.internal"
    assert names.check_leaf(name) == name.lower()


@given(ANYTHING)
def test_whatever_is_accepted_is_canonical_and_fits_a_certificate(text: str) -> None:
    """What `check` lets through it lets through again unchanged, and a certificate can carry it."""
    try:
        name = names.check(text)
    except ValueError:
        assume(False)
    assert names.check(name) == name
    assert names.to_ascii(name) == name
    general = names.general_name(name)
    raw = ipaddress.ip_address(name).packed if isinstance(general, x509.IPAddress) else name.encode("ascii")
    assert x509.SubjectAlternativeName([general]).public_bytes().endswith(raw)


@given(ANYTHING)
def test_refusals_are_value_errors(text: str) -> None:
    """No input whatever makes the check of a host fail in another way than by refusing it."""
    for read in (names.check, names.check_leaf, names.to_ascii):
        try:
            assert isinstance(read(text), str)
        except ValueError as error:
            assert str(error)  # noqa: PT017  # either outcome is right


@given(HOST.filter(lambda host: not host.rpartition(".")[2].isdigit()))
def test_every_host_name_is_accepted(host: str) -> None:
    """A host name by the book is never refused."""
    assert names.check(host.upper() + ".") == host


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Example.com", "example.com"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("B\u00fccher.Example", "xn--bcher-kva.example"),
        ("fa\u00df.example", "fass.example"),
        ("\u65e5\u672c\u3002example", "xn--wgv71a.example"),
    ],
)
def test_to_ascii(host: str, name: str) -> None:
    """A host from a CONNECT request or an SNI becomes the name that the server's certificate was verified for."""
    assert names.to_ascii(host) == name


@pytest.mark.parametrize("host", ["\u00e4" * 64 + ".example", "..\u00e4", "xn--\u00e4.example", "\u00e4 b.example", ""])
def test_to_ascii_refuses(host: str) -> None:
    """A host without an IDNA form is a ValueError, not a UnicodeError with the codec's words alone."""
    with pytest.raises(ValueError, match=r"no IDNA form|no part of a host name|characters") as caught:
        names.to_ascii(host)
    assert not isinstance(caught.value, UnicodeError)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("example.com", x509.DNSName),
        ("*.example.com", x509.DNSName),
        ("192.0.2.1", x509.IPAddress),
        ("2001:db8::1", x509.IPAddress),
    ],
)
def test_general_name(name: str, kind: type[x509.GeneralName]) -> None:
    """An address goes into the certificate as an address, everything else as a DNS name."""
    carried = names.general_name(name)
    assert isinstance(carried, kind)
    assert str(carried.value) == name


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("example.com", "example.com", True),
        ("example.com", "www.example.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "*.b.example.com", False),
        ("*.example.com", "www.example.org", False),
        ("*.example.com", "www.notexample.com", False),
        ("*.b.example.com", "*.example.com", False),
        ("a.example.com", "b.example.com", False),
        ("www.example.com", "*.example.com", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("*.example.com", "192.0.2.1", False),
    ],
)
def test_covers(pattern: str, name: str, covered: bool) -> None:
    """A wildcard stands for exactly one left-most label, and a cached wildcard leaf is reused for nothing else."""
    assert names.covers(pattern, name) is covered


@given(HOST, HOST)
def test_covers_one_label(host: str, parent: str) -> None:
    """`*.parent` covers `host.parent` exactly where `host` is a single label."""
    assert names.covers(f"*.{parent}", f"{host}.{parent}") is ("." not in host)
