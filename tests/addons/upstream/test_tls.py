"""TLS to servers: mitmproxy's addon must work as ever, and nothing of its certificate authority may be left."""

from __future__ import annotations

from pathlib import Path

import pytest
from mitmproxy import tls
from mitmproxy.addons import tlsconfig
from mitmproxy.exceptions import OptionsError
from mitmproxy.hooks import RunningHook
from mitmproxy.net import tls as net_tls
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.proxy.layers.quic import QuicStartClientHook, QuicTlsData
from mitmproxy.proxy.layers.tls import (
    TlsStartClientHook,
    TlsStartServerHook,
)
from mitmproxy.test import taddons, tflow
from OpenSSL import SSL

from addons.upstream.tls import UpstreamTls
from tests.addons.forward.arrivals import arrival


@pytest.fixture
async def tctx(tmp_path: Path) -> taddons.context:
    """mitmproxy's options and hooks, with our addon and an empty directory where mitmproxy keeps its files."""
    made = taddons.context()
    made.options.confdir = str(tmp_path / "confdir")
    made.master.addons.add(UpstreamTls())
    return made


# nothing of a software CA


def _files(tctx: taddons.context) -> list[Path]:
    return list(Path(tctx.options.confdir).parent.rglob("*"))


async def test_no_file_is_made(tctx: taddons.context) -> None:
    """From the start to a client's handshake no CA key is written anywhere."""
    arrived = arrival(tctx)
    tctx.options.update(key_size=4096, tls_version_client_min="TLS1_2")
    await tctx.master.addons.trigger_event(RunningHook())
    await tctx.master.addons.trigger_event(TlsStartClientHook(tls.TlsData(arrived.client, arrived)))
    assert _files(tctx) == []


async def test_mitmproxys_own_addon_would_have_made_files(tmp_path: Path) -> None:
    """The test above would notice: with mitmproxy's own addon a CA key is there after the start."""
    tctx = taddons.context()
    tctx.options.confdir = str(tmp_path / "confdir")
    tctx.master.addons.add(tlsconfig.TlsConfig())
    await tctx.master.addons.trigger_event(RunningHook())
    assert "mitmproxy-ca.pem" in [path.name for path in _files(tctx)]


@pytest.mark.parametrize(("option", "value"), [("certs", ["*=/some/certificate.pem"]), ("cert_passphrase", "secret")])
async def test_options_of_a_software_ca_are_refused(tctx: taddons.context, option: str, value: object) -> None:
    """An operator who sets certs or cert_passphrase is told that leaves are signed on the HSM."""
    with pytest.raises(OptionsError, match=f"'{option}' is not available: leaves are signed on the HSM") as caught:
        tctx.options.update(**{option: value})
    assert "secret" not in str(caught.value)
    assert _files(tctx) == []


async def test_a_client_that_nobody_provided_for_gets_no_certificate(tctx: taddons.context) -> None:
    """Where forward set nothing, no certificate of a software key takes its place: the connection fails."""
    arrived = arrival(tctx)
    data, quic = tls.TlsData(arrived.client, arrived), QuicTlsData(arrived.client, arrived)
    await tctx.master.addons.trigger_event(TlsStartClientHook(data))
    await tctx.master.addons.trigger_event(QuicStartClientHook(quic))
    assert data.ssl_conn is None
    assert quic.settings is None


async def test_no_revocation_list_is_served(tctx: taddons.context) -> None:
    """A request whose path looks like mitmproxy's CRL goes to its server like any other."""
    flow = tflow.tflow()
    flow.request.path = "/mitmproxy-0.crl"
    await tctx.master.addons.trigger_event(HttpRequestHook(flow))
    assert flow.response is None
    assert not callable(UpstreamTls.request)


async def test_it_has_the_place_of_mitmproxys_addon(tctx: taddons.context) -> None:
    """Scripts that look for mitmproxy's addon find ours, and there can be only one of the two."""
    assert isinstance(tctx.master.addons.get("tlsconfig"), UpstreamTls)


# what mitmproxy's addon does still holds


async def test_options_of_tls_are_checked_as_ever(tctx: taddons.context) -> None:
    """A curve that does not exist is refused by name, as mitmproxy does."""
    with pytest.raises(OptionsError, match="Invalid ECDH curve: 'secp1'"):
        tctx.options.update(tls_ecdh_curve_server="secp1")
    tctx.options.update(tls_ecdh_curve_server="secp384r1")
    assert net_tls.get_curve(tctx.options.tls_ecdh_curve_server) is not None


@pytest.mark.parametrize("insecure", [False, True])
async def test_servers_are_verified_by_name(tctx: taddons.context, insecure: bool) -> None:
    """A server's handshake carries its name, what the client speaks, and verification unless that was turned off."""
    tctx.options.ssl_insecure = insecure
    arrived = arrival(tctx)
    arrived.client.alpn_offers = [b"h2", b"http/1.1"]
    data = tls.TlsData(arrived.server, arrived)
    await tctx.master.addons.trigger_event(TlsStartServerHook(data))
    assert data.ssl_conn is not None
    assert arrived.server.sni == "www.example.com"
    assert arrived.server.alpn_offers == (b"h2", b"http/1.1")
    wanted = SSL.VERIFY_NONE if insecure else SSL.VERIFY_PEER
    assert data.ssl_conn.get_context().get_verify_mode() == wanted


@pytest.mark.parametrize("option", ["ciphers_client", "ciphers_server"])
async def test_ciphers_that_do_not_exist_are_refused(tctx: taddons.context, option: str) -> None:
    """A cipher list that OpenSSL does not know is refused when it is set, not at each handshake."""
    with pytest.raises(OptionsError, match=f"'{option}' names no cipher that OpenSSL knows: ROT13"):
        tctx.options.update(**{option: "ROT13"})
    tctx.options.update(**{option: "ECDHE-RSA-AES128-GCM-SHA256"})


@pytest.mark.parametrize("option", ["tls_version_client_min", "tls_version_server_min", "tls_version_server_max"])
async def test_an_option_of_versions_is_no_error(
    tctx: taddons.context, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An OpenSSL that has no SSL 3.0 any more does not keep a worker with such an option from starting."""
    tctx.options.update(**{option: "TLS1_3"})
    assert not [one for one in caplog.records if one.levelname == "ERROR"]
