"""PKCS#11 URIs of private keys."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm import uri
from hsm.uri import KeyURI

TEXT = st.text(min_size=1)
KEYS = st.builds(
    KeyURI,
    token=st.none() | TEXT,
    object=TEXT,
    id=st.none() | st.binary(min_size=1),
    serial=st.none() | TEXT,
    manufacturer=st.none() | TEXT,
    model=st.none() | TEXT,
) | st.builds(KeyURI, token=st.none() | TEXT, id=st.binary(min_size=1))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pkcs11:object=ca", KeyURI(object="ca")),
        ("PKCS11:object=ca", KeyURI(object="ca")),
        ("pkcs11:object=ca;type=private", KeyURI(object="ca")),
        ("pkcs11:id=%01%AB%ff", KeyURI(id=b"\x01\xab\xff")),
        ("pkcs11:id=ab", KeyURI(id=b"ab")),
        ("pkcs11:token=My%20HSM;object=forward%3Btrust", KeyURI(token="My HSM", object="forward;trust")),
        ("pkcs11:object=a=b", KeyURI(object="a=b")),
        ("pkcs11:object=a+b", KeyURI(object="a+b")),
        ("pkcs11:object=sch%C3%BCssel", KeyURI(object="sch\u00fcssel")),
        ("pkcs11:object=sch\u00fcssel", KeyURI(object="sch\u00fcssel")),
        (
            "pkcs11:serial=0123;manufacturer=SafeNet;model=Luna%20K7;token=p1;object=ca;id=%00",
            KeyURI("p1", "ca", b"\0", "0123", "SafeNet", "Luna K7"),
        ),
    ],
)
def test_parses(text: str, key: KeyURI) -> None:
    """A URI as other tools print it names the key it names there, and its canonical form names the same."""
    assert uri.parse(text) == key
    assert uri.parse(str(uri.parse(text))) == key


@given(KEYS)
def test_canonical_form_names_the_same_key(key: KeyURI) -> None:
    """Whatever characters a label has, what `status` prints can be pasted into the configuration."""
    text = str(key)
    assert text.isascii()
    assert text.isprintable()
    assert uri.parse(text) == key


@given(label=TEXT, identifier=st.binary(min_size=1), data=st.data())
def test_percent_encoding_of_any_byte_changes_nothing(label: str, identifier: bytes, data: st.DataObject) -> None:
    """A character may be percent-encoded or not, as the writer likes: the label and the id are the same."""

    def some_encoded(raw: bytes) -> str:
        plain = quote_from_bytes(raw, safe="-._~:[]@!$'()*+,=&/")
        return "".join(
            f"%{ord(one):02x}" if one != "%" and "%" not in plain and data.draw(st.booleans()) else one for one in plain
        )

    text = f"pkcs11:object={some_encoded(label.encode())};id={some_encoded(identifier)}"
    assert uri.parse(text) == KeyURI(object=label, id=identifier)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "starts with 'pkcs11:'"),
        ("pkcs11:", "starts with 'pkcs11:'"),
        ("object=ca", "starts with 'pkcs11:'"),
        ("file:/ca.key", "starts with 'pkcs11:'"),
        ("pkcs11:token=p1", "by its label"),
        ("pkcs11:object=", "by its label"),
        ("pkcs11:object=;id=", "by its label"),
        ("pkcs11:?", "by its label"),
        ("pkcs11:object=ca;object=cb", "'object' stands twice"),
        ("pkcs11:object=ca;type=private;type=private", "'type' stands twice"),
        ("pkcs11:object=ca;type=cert", "type=private"),
        ("pkcs11:object=ca;type=public", "type=private"),
        ("pkcs11:object=ca;type=", "type=private"),
        ("pkcs11:object", "has no value"),
        ("pkcs11:object=%FF", "not UTF-8"),
        ("pkcs11:object=ca;colour=red", "unknown attribute 'colour'"),
        ("pkcs11:object=ca;Token=p1", "unknown attribute 'Token'"),
        ("pkcs11:object=ca?colour=red", "unknown attribute 'colour'"),
        ("pkcs11:object=ca?module-path=/lib/p11.so", "belongs to the member"),
        ("pkcs11:object=ca?module-name=p11", "belongs to the member"),
        ("pkcs11:object=ca;slot-id=1", "belongs to the member"),
    ],
)
def test_refuses(text: str, why: str) -> None:
    """A URI that names no single private key is refused with what would be right."""
    with pytest.raises(ValueError, match=why):
        uri.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:object=ca?pin-value=4711",
        "pkcs11:object=ca;pin-value=4711",
        "pkcs11:object=ca?module-path=x&pin-value=4711",
        "pkcs11:object=ca?pin-value=4711&colour=red",
        "pkcs11:object=ca?pin-source=/run/4711",
        "pkcs11:object=ca;pin-source=/run/4711",
    ],
)
def test_refuses_a_pin(text: str) -> None:
    """A PIN or its place in a URI is refused, and the refusal does not repeat it."""
    with pytest.raises(ValueError, match=r"does not belong in a URI|belongs to the member") as caught:
        uri.parse(text)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("text", ["pkcs11:id=%1", "pkcs11:id=%", "pkcs11:object=50%", "pkcs11:object=ca%zz"])
def test_refuses_a_broken_escape(text: str) -> None:
    """A '%' without two hexadecimal digits (RFC 7512 section 2.3) is a typing error, not the name of another key."""
    with pytest.raises(ValueError, match="%"):
        uri.parse(text)


@given(KEYS)
def test_anywhere_is_the_key_without_its_partition(key: KeyURI) -> None:
    """A key of a group is looked for on each member by its label and CKA_ID, wherever it was named to be."""
    anywhere = key.anywhere()
    assert anywhere == KeyURI(object=key.object, id=key.id)
    assert anywhere == anywhere.anywhere() == uri.parse(str(anywhere))
