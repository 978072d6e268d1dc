"""hsmitm.toml as a worker reads it: its own part, in the same words, and nothing of the signer's."""

from __future__ import annotations

from pathlib import Path

import pytest
from mitmproxy.http import Response

from addons.edge.streaming import DEFAULT, EVERYTHING, NOTHING, Streamed
from addons.inbound.settings import (
    HandshakeSettings,
    ListenerSettings,
    ServerAddress,
    SiteCertificate,
    SiteSettings,
)
from hsm.errors import MisconfiguredError
from proxy.config import file, worker

EXAMPLE = """
[hsm]
high_availability = true
unavailable = "queue:100"
[[hsm.members]]
name = "m1"
module = "/lib/vendor.so"
token = "partition1"
pin = { env = "HSM_PIN" }
[[hsm.members]]
name = "m2"
module = "/lib/vendor.so"
serial = "0815"
pin = { command = ["pass", "hsm"] }
[forward]
cache_entries = 77
[forward.trust]
certificate = "trust.pem"
key = "pkcs11:object=trust"
[forward.untrust]
certificate = "untrust.pem"
key = "pkcs11:object=untrust"
[proxy]
listen = "127.0.0.1:3128"
upstream_ca = "roots.pem"
mint_timeout_s = 2.5
handshake_threads = 8
client_handshake_timeout_s = 20.0
[[inbound]]
listen = "0.0.0.0:443"
minimum_version = "TLS1.3"
tickets = false
[[inbound.sites]]
names = ["Shop.example.com", "*.shop.example.com"]
certificate = ["shop.pem", "/etc/shop-rsa.pem"]
key = ["pkcs11:object=shop", "pkcs11:object=shop-rsa"]
ocsp = ["fetch", "shop.der"]
upstream = "https://10.0.0.5"
upstream_name = "in.example.com"
upstream_ca = "in.pem"
client_certificates = "require"
client_ca = "clients.pem"
[[inbound]]
listen = "0.0.0.0:444"
transparent = true
[[inbound.sites]]
names = ["blog.example.com"]
certificate = "blog.pem"
key = "pkcs11:object=blog"
default = true
[run]
directory = "/run/hsmitm"
[mitmproxy]
scripts = ["mine.py"]
[log]
level = "debug"
"""


def _load(directory: Path, text: str) -> worker.WorkerConfig:
    path = directory / "hsmitm.toml"
    path.write_text(text)
    return worker.load(path)


def test_what_a_worker_needs(tmp_path: Path) -> None:
    """A worker gets its own part of the file, with whole paths."""
    config = _load(tmp_path, EXAMPLE)
    assert config.cache_entries == 77
    assert config.signer == Path("/run/hsmitm/signer.sock")
    assert config.upstream_ca == tmp_path / "roots.pem"
    assert config.base == tmp_path
    assert config.mitmproxy.scripts == ["mine.py"]
    assert config.log.level == "debug"
    assert config.handshakes == HandshakeSettings(threads=8, handshake_s=20, signature_s=2.5, bounds=config.limits)
    shop, blog = config.inbound
    assert shop == ListenerSettings(
        place="0.0.0.0:443",
        minimum="TLS1.3",
        tickets=False,
        sites=(
            SiteSettings(
                names=("shop.example.com", "*.shop.example.com"),
                certificates=(
                    SiteCertificate(tmp_path / "shop.pem", "fetch"),
                    SiteCertificate(Path("/etc/shop-rsa.pem"), tmp_path / "shop.der"),
                ),
                server=ServerAddress(tls=True, host="10.0.0.5", port=443),
                upstream_name="in.example.com",
                upstream_ca=tmp_path / "in.pem",
                client_ca=tmp_path / "clients.pem",
                client_required=True,
            ),
        ),
    )
    assert (blog.transparent, blog.sites[0].server, blog.sites[0].default) == (True, None, True)
    assert blog.sites[0].certificates == (SiteCertificate(tmp_path / "blog.pem"),)


def test_without_a_forward_proxy(tmp_path: Path) -> None:
    """Without [forward] there is no cache of leaves to make."""
    assert _load(tmp_path, "[hsm]\n").cache_entries is None


def test_what_is_the_signers_is_passed_over(tmp_path: Path) -> None:
    """Nothing that stands in [hsm] can keep a worker from reading its part: that is for the signer to judge."""
    assert _load(tmp_path, '[hsm]\nunavailable = "never"\nsecret = 1\n[proxy]\nworkers = 3\n').proxy.workers == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mint_timeout_s = 2.5", "mint_timeout_s = 0"),
        ("mint_timeout_s = 2.5", "mint_timeot_s = 2.5"),
        ('level = "debug"', 'level = "loud"'),
        ('upstream = "https://10.0.0.5"', 'upstream = "10.0.0.5"'),
        ('names = ["blog.example.com"]', 'names = ["bl og"]'),
        ("cache_entries = 77", "cache_entries = 0"),
        ("[log]", "[log"),
    ],
)
def test_mistakes_in_the_same_words(tmp_path: Path, old: str, new: str) -> None:
    """What is wrong in a worker's part is said as `hsmitm check` says it."""
    assert old in EXAMPLE
    with pytest.raises(MisconfiguredError) as by_worker:
        _load(tmp_path, EXAMPLE.replace(old, new))
    with pytest.raises(MisconfiguredError) as by_all:
        file.load(tmp_path / "hsmitm.toml")
    assert str(by_worker.value) == str(by_all.value)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named, with what would make one."""
    with pytest.raises(MisconfiguredError, match=r"^there is no configuration at .*hsmitm\.toml; make one with"):
        worker.load(tmp_path / "hsmitm.toml")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("", EVERYTHING),
        ('scripts = ["a.py"]', Streamed.parse(DEFAULT)),
        ("options = { ssl_insecure = true }", Streamed.parse(DEFAULT)),
        ("options = { anticache = true }", NOTHING),
        ('options = { modify_body = ["/a/b"] }', NOTHING),
        ('options = { modify_body = ["/a/b"] }\nstream = ["*"]', EVERYTHING),
        ('scripts = ["a.py"]\nstream = []', NOTHING),
        ('stream = ["video/*"]', Streamed.parse(["video/*"])),
    ],
)
def test_which_messages_go_on_as_they_come(tmp_path: Path, section: str, expected: Streamed) -> None:
    """All without scripts; with them what has no end in sight, unless the operator says otherwise."""
    config = _load(tmp_path, f"[mitmproxy]\n{section}\n")
    message = Response.make(200, b"hello", {"content-type": "video/mp4"})
    assert config.mitmproxy.streamed.takes(message) == expected.takes(message)
    del message.headers["content-length"]
    assert config.mitmproxy.streamed.takes(message) == expected.takes(message)


def test_a_message_that_cannot_be_meant_is_named(tmp_path: Path) -> None:
    """A typing error in what is streamed stops the start."""
    with pytest.raises(MisconfiguredError, match="stream: 'html' is neither a content type nor 'no-length'"):
        _load(tmp_path, '[mitmproxy]\nstream = ["html"]\n')
