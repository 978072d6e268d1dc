"""Sites of inbound inspection: what their certificates must be, and which keys they come to."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from msgspec import structs

from hsm.certificates.files import inbound_name, spki_of
from hsm.errors import MisconfiguredError
from hsm.signer.settings import InboundSettings
from hsm.signer.sites import Sites, load_sites
from hsm.uri import KeyURI
from tests.hsm.sites import write_certificate

P256, RSA = ec.generate_private_key(ec.SECP256R1()).public_key(), rsa.generate_private_key(65537, 2048).public_key()


@pytest.fixture
def shop(tmp_path: Path) -> InboundSettings:
    """A site with a P-256 key."""
    return InboundSettings("shop", write_certificate(P256, "shop", tmp_path / "shop.pem"), KeyURI("hsm", "shop"))


@pytest.fixture
def mail(tmp_path: Path) -> InboundSettings:
    """A site with an RSA key."""
    return InboundSettings("mail", write_certificate(RSA, "mail", tmp_path / "mail.pem"), KeyURI("hsm", "mail"))


def load(*settings: InboundSettings, cas: tuple[bytes, ...] = (), anywhere: bool = False) -> Sites:
    """Those sites, on the members m1 and m2."""
    return load_sites(settings, cas, ["m1", "m2"], anywhere=anywhere)


def why_not(*settings: InboundSettings, cas: tuple[bytes, ...] = ()) -> str:
    """What an operator reads of sites that are wrong."""
    with pytest.raises(MisconfiguredError) as caught:
        load(*settings, cas=cas)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what they come to ------------------------------------------------------------------------------------------------


def test_a_site_is_its_certificate_and_its_key(shop: InboundSettings, mail: InboundSettings) -> None:
    """Each site has a key of the group, which is called by its public key and signs every scheme that fits it."""
    sites = load(shop, mail)
    assert [(site.name, site.key, len(site.chain)) for site in sites.sites] == [
        ("shop", inbound_name(P256), 2),
        ("mail", inbound_name(RSA), 2),
    ]
    first, second = sites.keys[inbound_name(P256)], sites.keys[inbound_name(RSA)]
    assert (first.title, second.title) == ("key of shop", "key of mail")
    assert first.inbound
    assert [one.name for one in first.schemes] == ["ecdsa_secp256r1_sha256"]
    assert len(second.schemes) == 6
    assert not (first.decrypts)
    assert not (second.decrypts)


def test_whose_business_a_key_is(shop: InboundSettings) -> None:
    """In an HA group the public key finds a key at each member; otherwise it is its holder's, or anybody's."""
    (key,) = load(shop, anywhere=True).keys.values()
    assert (key.uri, key.members) == (KeyURI(object="shop"), None)
    (key,) = load(shop).keys.values()
    assert (key.uri, key.members) == (KeyURI("hsm", "shop"), frozenset({"m1", "m2"}))
    (key,) = load(structs.replace(shop, holder="m2")).keys.values()
    assert key.members == frozenset({"m2"})


def test_sites_that_share_a_key(shop: InboundSettings, tmp_path: Path) -> None:
    """Sites with one key are one key, also with other certificates; it decrypts where one of them says so."""
    renewed = write_certificate(P256, "blog", tmp_path / "blog.pem")
    blog = structs.replace(shop, site="blog", certificate=renewed, decrypt=True)
    sites = load(shop, blog, structs.replace(shop))
    (key,) = sites.keys.values()
    assert (len(sites.sites), key.sites, key.decrypts, key.title) == (3, ("shop", "blog"), True, "key of shop, blog")


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        (
            {"key": KeyURI("hsm", "blog")},
            "key 'pkcs11:token=hsm;object=shop;type=private' and 'pkcs11:token=hsm;object=b",
        ),
        ({"holder": "m1"}, "member '' and 'm1'"),
    ],
)
def test_sites_that_name_one_key_differently(shop: InboundSettings, fields: dict[str, object], difference: str) -> None:
    """Sites with one key that name another place for it are a mistake, and both are named."""
    message = why_not(shop, structs.replace(shop, site="blog", **fields))
    assert message.startswith(f"sites shop and blog have the same key, and name it differently: {difference}")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_file_that_is_none(shop: InboundSettings, tmp_path: Path) -> None:
    """A certificate that is missing, or holds none, is named with its site."""
    path = tmp_path / "missing.pem"
    absent = structs.replace(shop, certificate=path)
    assert why_not(absent) == f"site shop: cannot read the certificate {path}: No such file or directory"
    path.write_text("no certificate")
    assert why_not(absent).startswith(f"site shop: {path} holds no PEM certificate: ")
    assert why_not(structs.replace(shop, certificate=tmp_path)).endswith(": Is a directory")


def test_a_ca_is_no_site(shop: InboundSettings) -> None:
    """A CA's certificate, or a chain in the wrong order, is refused: its key may not be a site's."""
    write_certificate(P256, "shop CA", shop.certificate, ca=True)
    assert why_not(shop) == (
        f"site shop: {shop.certificate}: its first certificate, 'CN=shop CA', is a CA; put the server's own first, "
        "then its issuers"
    )
    write_certificate(P256, "shop", shop.certificate, ca=None)
    assert load(shop).sites


@pytest.mark.parametrize(
    ("public", "problem"),
    [
        (ec.generate_private_key(ec.SECP521R1()).public_key(), "it has an elliptic curve key on secp521r1"),
        (rsa.generate_private_key(65537, 1024).public_key(), "it has an RSA key of 1024 bits"),
        (ed25519.Ed25519PrivateKey.generate().public_key(), "it has a key of type Ed25519PublicKey"),
    ],
)
def test_a_key_that_we_do_not_sign_with(shop: InboundSettings, public: object, problem: str) -> None:
    """A site with a key of another kind is refused, and the kind is named."""
    write_certificate(public, "shop", shop.certificate)
    assert why_not(shop).startswith(f"site shop: {shop.certificate}: {problem}")


@pytest.mark.parametrize("public", [P256, RSA])
def test_the_key_of_a_forward_ca(shop: InboundSettings, public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> None:
    """A site with the key of a CA is refused: workers could have a CA certificate signed with it."""
    write_certificate(public, "shop", shop.certificate)
    message = why_not(shop, cas=(b"another", spki_of(public)))
    assert message.startswith(f"site shop: {shop.certificate} has the key of a forward CA")
    assert load(shop, cas=(b"another",)).keys
