"""[[inbound]] of hsmitm.toml: what an operator may write, and what is said about what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from addons.inbound.settings import ListenerSettings, SiteSettings
from hsm.errors import MisconfiguredError
from proxy.config.file import Config, parse
from proxy.config.section import Address

_HSM = """
[[hsm.members]]
name = "m1"
module = "/lib/vendor.so"
token = "partition"
pin = { file = "pin" }
"""
_LISTENER = '[[inbound]]\nlisten = "0.0.0.0:443"\n'
_SITE = """[[inbound.sites]]
names = ["shop.example.com", "*.shop.example.com"]
certificate = "shop.pem"
key = "pkcs11:token=partition;object=shop;type=private"
upstream = "https://10.0.0.5"
"""


def _read(text: str) -> Config:
    return parse(text.encode(), Path("/etc/hsmitm.toml"))


def _refusal(text: str) -> str:
    with pytest.raises(MisconfiguredError) as refused:
        _read(text)
    return str(refused.value)


def test_inbound_alone() -> None:
    """Sites of one's own need no forward CA and no proxy address."""
    config = _read(_HSM + _LISTENER + _SITE)
    assert config.listen is None
    assert config.inbound == [Address("0.0.0.0", 443)]
    (key,) = config.inbound_keys()
    assert (key.site, key.certificate, key.holder) == ("shop.example.com", Path("/etc/shop.pem"), "m1")
    assert not key.decrypt
    assert config.signer().inbound == [key]
    assert config.signer().authorities == {}


def test_several_certificates() -> None:
    """A site with an RSA and an ECDSA certificate names both files and both keys, in order of preference."""
    text = _SITE.replace('"shop.pem"', '["ec.pem", "rsa.pem"]').replace(
        'key = "pkcs11:token=partition;object=shop;type=private"', 'key = ["pkcs11:object=ec", "pkcs11:object=rsa"]'
    )
    keys = _read(_HSM + _LISTENER + text).inbound_keys()
    assert [(one.certificate.name, one.key.object) for one in keys] == [("ec.pem", "ec"), ("rsa.pem", "rsa")]


@pytest.mark.parametrize(
    "text",
    ["10.0.0.5:443", "ftp://10.0.0.5", "https://", "https://host:0", "https://host:99999", "https://host/path",
     "https://user@host", "https://host?x=1", "https://no such host"],
)  # fmt: skip
def test_what_is_no_upstream(text: str) -> None:
    """A server that cannot be meant is refused, not half understood."""
    assert _refusal(_HSM + _LISTENER + _SITE.replace("https://10.0.0.5", text)).startswith(
        "hsmitm.toml: inbound[0].sites[0]: upstream: "
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"*.shop.example.com"', '"*.com"', "names: '*.com': a wildcard needs at least two labels"),
        ('"*.shop.example.com"', '"bad name"', "names: 'bad name' has the label"),
        ('"*.shop.example.com"', '"my_shop.example.com"', "names: 'my_shop.example.com' has an underscore: no client"),
        ('"pkcs11:token=partition;object=shop;type=private"', '"shop.key"', "key: "),
        ('"shop.pem"', '["a.pem", "b.pem"]', "key: 2 certificates and 1 keys; give one for each"),
        ('upstream = "https://10.0.0.5"', "", "sites: shop.example.com has no upstream"),
        (
            "https://10.0.0.5",
            'http://10.0.0.5"\nupstream_ca = "ca.pem',
            "upstream_ca: an http:// upstream proves nothing",
        ),
        (
            "https://10.0.0.5",
            'https://10.0.0.5"\nupstream_ca = "ca.pem"\nupstream_certificate = "pin.pem',
            "upstream_certificate: that very certificate is accepted",
        ),
        ("https://10.0.0.5", 'https://10.0.0.5"\nclient_ca = "ca.pem', "client_ca: "),
        ("https://10.0.0.5", 'https://10.0.0.5"\nclient_certificates = "require', "client_ca: "),
        ("https://10.0.0.5", 'https://10.0.0.5"\nclient_certificates = "maybe', "one of off, request, require"),
        (
            "https://10.0.0.5",
            'https://10.0.0.5"\nocsp = ["a.der", "b.der"]\nupstream_name = "x',
            "ocsp: 1 certificates",
        ),
        ("https://10.0.0.5", 'https://10.0.0.5"\nupstreem_ca = "x', "did you mean 'upstream_ca'?"),
        ('listen = "0.0.0.0:443"', 'listen = "443"', "inbound[0]: listen: '443' is no address"),
        ('listen = "0.0.0.0:443"', 'listen = ":443"\nminimum_version = "TLS1.1"', "one of TLS1.2, TLS1.3"),
        ('listen = "0.0.0.0:443"', 'listen = ":443"\nciphers = ["RC4"]', "one of AES-256-GCM, CHACHA20-POLY1305"),
        (
            'listen = "0.0.0.0:443"',
            'listen = ":443"\nminimum_version = "TLS1.3"\nmaximum_version = "TLS1.2"',
            "minimum_version: TLS1.3 is above TLS1.2",
        ),
        ('listen = "0.0.0.0:443"', 'listen = ":443"\ntransparent = true', "with transparent it is the original"),
        (
            'listen = "0.0.0.0:443"',
            'listen = ":443"\nminimum_version = "TLS1.3"',
            "turns on rsa_key_exchange, which TLS 1.3 does not have",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(old: str, new: str, said: str) -> None:
    """The field is named, with what is wrong about it and what would be right."""
    site = _SITE + "rsa_key_exchange = true\n" if "does not have" in said else _SITE
    assert said in _refusal(_HSM + _LISTENER.replace(old, new) + site.replace(old, new))


def test_names_and_defaults_that_collide() -> None:
    """One name of two sites, two defaults, or two listeners at one address are named."""
    assert "shop.example.com is a name of shop.example.com and of shop.example.com" in _refusal(
        _HSM + _LISTENER + _SITE + _SITE
    )
    other = _SITE.replace("shop.example", "other.example")
    default = "default = true\n"
    assert "are both the default" in _refusal(_HSM + _LISTENER + _SITE + default + other + default)
    assert "two listeners have the address 0.0.0.0:443" in _refusal(_HSM + (_LISTENER + _SITE) * 2)


def test_nothing_to_do() -> None:
    """A file without forward and without inbound inspection is refused with both."""
    assert "configure [forward], [[inbound]] or both" in _refusal(_HSM)


def test_a_key_of_no_member() -> None:
    """With several members and no group, a site's key must say on whose partition it is."""
    second = _HSM.replace('"m1"', '"m2"').replace('"partition"', '"other"')
    config = _read(_HSM + second + _LISTENER + _SITE)
    assert config.inbound_keys()[0].holder == "m1"
    said = _refusal(_HSM + second + _LISTENER + _SITE.replace("token=partition;", ""))
    assert said.startswith("hsmitm.toml: inbound[0].sites[0].key: ")
    assert "could be on the partition of m1 or m2" in said


def test_defaults_are_those_of_the_settings(tmp_path: Path) -> None:
    """What the file leaves out is what the data path's own settings have."""
    (section,) = _read(_HSM + _LISTENER + _SITE).file.inbound
    listener = section.settings(tmp_path)
    assert listener == ListenerSettings(place="0.0.0.0:443", sites=listener.sites)
    (site,) = listener.sites
    assert site == SiteSettings(names=site.names, certificates=site.certificates, server=site.server)
