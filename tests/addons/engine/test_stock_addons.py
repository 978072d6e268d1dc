"""Which of mitmproxy's addons a worker gets, and which options reach them."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from mitmproxy import addons as stock
from mitmproxy import exceptions, http, options
from mitmproxy.addons.block import Block as StockBlock
from mitmproxy.master import Master

from addons.engine import stock_addons
from addons.engine.master import LeanMaster
from addons.forward.block import Block
from addons.upstream.tls import UpstreamTls
from hsm.errors import MisconfiguredError

_LEAN = ["Core", "Block", "Proxyserver", "NextLayer", "ErrorCheck"]


class _Ours:
    """An addon of ours."""


def _chosen(*wanted: str, scripts: bool = False, upstream: bool = False) -> list[str]:
    """The class names of what is chosen."""
    return [type(one).__name__ for one in stock_addons.choose([], wanted, scripts=scripts, upstream=upstream)]


def _master(wanted: dict[str, Any]) -> Master:
    """A worker's master with the operator's options set."""
    made = Master(options.Options(), event_loop=asyncio.get_running_loop())
    made.addons.add(*stock_addons.choose([UpstreamTls()], wanted, scripts=False, upstream=False))
    stock_addons.set_options(made, wanted)
    return made


def test_a_worker_gets_only_what_it_needs() -> None:
    """Each addon costs time in every hook: without options a worker has four of mitmproxy's, and its start-up check."""
    assert _chosen() == _LEAN


@pytest.mark.parametrize(
    ("option", "addon"),
    [
        ("anticache", "AntiCache"),
        ("anticomp", "AntiComp"),
        ("block_list", "BlockList"),
        ("client_replay", "ClientPlayback"),
        ("dns_name_servers", "DnsResolver"),
        ("hardump", "SaveHar"),
        ("keep_alt_svc_header", "UpdateAltSvc"),
        ("map_local", "MapLocal"),
        ("map_remote", "MapRemote"),
        ("modify_body", "ModifyBody"),
        ("modify_headers", "ModifyHeaders"),
        ("save_stream_file", "Save"),
        ("server_replay", "ServerPlayback"),
        ("strip_ech", "StripDnsHttpsRecords"),
        ("upstream_auth", "UpstreamAuth"),
    ],
)
def test_an_option_brings_its_addon_in(option: str, addon: str) -> None:
    """Who sets an option of an addon that is left out gets exactly that addon with it."""
    assert sorted(_chosen(option)) == sorted([*_LEAN, addon])


@pytest.mark.parametrize("option", ["ssl_insecure", "tls_version_client_min", "stream_large_bodies", "no_such_option"])
def test_an_option_of_what_is_there_brings_nothing(option: str) -> None:
    """Options of the core, or of an addon that every worker has, cost nothing; unknown ones are refused later."""
    assert _chosen(option) == _LEAN


def test_two_options_of_one_addon_bring_it_once() -> None:
    """An addon is there once, however many of its options are set."""


def test_scripts_bring_their_loader() -> None:
    """User scripts need mitmproxy's loader, and without scripts it is not there."""
    assert "ScriptLoader" in _chosen(scripts=True)
    assert "ScriptLoader" not in _chosen()


def test_a_proxy_in_front_brings_its_authentication() -> None:
    """In upstream mode credentials can be sent to the next proxy."""
    assert "UpstreamAuth" in _chosen(upstream=True)


def test_mitmproxys_own_ca_never_comes_in() -> None:
    """Whatever is set, neither the addon that makes a software CA nor the one that hands it out is there."""
    everything = [name for addon in stock.default_addons() for name in stock_addons._options_of(addon)]
    chosen = _chosen(*everything, scripts=True, upstream=True)
    assert len(chosen) > 20
    assert "TlsConfig" not in chosen
    assert "Onboarding" not in chosen


def test_our_addons_run_behind_scripts_and_before_the_rest() -> None:
    """A user's script is asked first, then ours in their order, then what changes requests; the start-up check last."""
    first, second = _Ours(), _Ours()
    chosen = stock_addons.choose([first, second], ["modify_headers"], scripts=True, upstream=True)
    kinds = [type(one).__name__ for one in chosen]
    assert kinds == [
        "Core", "Block", "Proxyserver", "ScriptLoader", "NextLayer", "_Ours", "_Ours", "ModifyHeaders",
        "UpstreamAuth", "ErrorCheck",
    ]  # fmt: skip
    assert chosen[5:7] == [first, second]


def test_who_may_use_the_proxy_is_decided_by_what_is_handed_in() -> None:
    """The worker's own Block takes the place of mitmproxy's."""
    ours = Block()
    chosen = stock_addons.choose([], [], scripts=False, upstream=False, instead=[ours])
    assert [one for one in chosen if isinstance(one, StockBlock)] == [ours]
    assert [type(one).__name__ for one in chosen] == _LEAN


async def test_options_reach_mitmproxy() -> None:
    """Options of the core, of our TLS addon and of one that was brought in are all set, lists too."""
    wanted = {
        "ssl_insecure": True,
        "tls_version_client_min": "TLS1_3",
        "stream_large_bodies": "1m",
        "modify_headers": ["/~q/X-Inspected/yes"],
        "tcp_timeout": 60,
    }
    made = _master(wanted)
    assert {name: getattr(made.options, name) for name in wanted} == wanted | {
        "modify_headers": ("/~q/X-Inspected/yes",)
    }
    assert made.addons.get("modifyheaders") is not None


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("mode", ["regular"], "set proxy.mode"),
        ("listen_host", "0.0.0.0", "set proxy.listen"),
        ("listen_port", 8081, "set proxy.listen"),
        ("certs", ["*=a.pem"], "leaves are signed on the HSM"),
        ("cert_passphrase", "x", "leaves are signed on the HSM"),
        ("key_size", 4096, "leaf keys are P-256, or RSA-2048 for clients that need it"),
        ("confdir", "/tmp", "a worker keeps no files"),
        ("ssl_verify_upstream_trusted_ca", "a.pem", "set proxy.upstream_ca"),
        ("scripts", ["a.py"], "set mitmproxy.scripts"),
        ("onboarding", False, "mitm.it is not served"),
        ("server", False, "a worker always listens"),
    ],
)
async def test_options_that_are_ours_are_refused_with_a_hint(name: str, value: object, hint: str) -> None:
    """An option that hsmitm sets itself is refused with the setting to use instead."""
    with pytest.raises(MisconfiguredError) as caught:
        _master({name: value})
    assert str(caught.value) == f"mitmproxy.options.{name} is not available: {hint}"


_HOLES: dict[str, object] = {
    "ignore_hosts": ["bank"], "allow_hosts": ["bank"], "tcp_hosts": [".*"], "udp_hosts": [".*"], "proxyauth": "any",
    "stickyauth": ".*", "stickycookie": ".*", "validate_inbound_headers": False,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), _HOLES.items())
async def test_an_option_that_makes_a_hole_is_refused(name: str, value: object) -> None:
    """What would let traffic through uninspected, or mix clients up, stops the start with the reason."""
    with pytest.raises(MisconfiguredError) as caught:
        _master({name: value})
    assert str(caught.value) == f"mitmproxy.options.{name} is not available: {stock_addons.HOLES[name]}"


@pytest.mark.parametrize(("name", "value"), _HOLES.items())
async def test_a_script_cannot_make_the_hole_either(name: str, value: object) -> None:
    """A script that sets such an option while it runs gets an error, in each way to set one, and nothing changes."""
    made = LeanMaster(stock_addons.LeanOptions(), asyncio.get_running_loop())
    made.addons.add(*[one for one in stock.default_addons() if name in stock_addons._options_of(one)])
    before = getattr(made.options, name)
    for attempt in (
        lambda: setattr(made.options, name, value),
        lambda: made.options.update(**{name: value}),
        lambda: made.options.update_defer(**{name: value}),
        lambda: made.options.set(_specified(name, value)),
    ):
        with pytest.raises(exceptions.OptionsError, match=f"the option {name} is not available: "):
            attempt()
    made.options.update(**{name: before})
    made.options.reset()
    assert getattr(made.options, name) == before


def _specified(name: str, value: object) -> str:
    """As on mitmproxy's command line."""
    return f"{name}={str(value).lower() if isinstance(value, bool) else value[0] if isinstance(value, list) else value}"


async def test_an_option_that_mitmproxy_does_not_have_is_refused() -> None:
    """A typing error in an option stops the start, and says where to look options up."""
    with pytest.raises(MisconfiguredError, match=r"^mitmproxy\.options\.ssl_insecur: mitmproxy has no such option;"):
        _master({"ssl_insecur": True})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ssl_insecure", "yes"),
        ("tcp_timeout", "60"),
        ("modify_headers", "x"),
        ("modify_headers", [1]),
        ("block_list", dt.date(2026, 1, 1)),
        ("anticache", {"a": 1}),
        ("tls_version_client_min", "TLS9"),
        ("stream_large_bodies", "a lot"),
        ("modify_headers", ["/one"]),
    ],
)
async def test_a_value_that_mitmproxy_refuses_is_named(name: str, value: object) -> None:
    """A value of the wrong type, or one that mitmproxy cannot use, stops the start and names the option."""
    with pytest.raises(MisconfiguredError, match=rf"^mitmproxy\.options\.{name}: \S"):
        _master({name: value})


def test_messages_are_checked_for_scripts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a message's types is left out on demand; mitmproxy has it where we leave it out, by that name."""
    wrong = {"http_version": b"HTTP/1.1", "status_code": "200", "reason": b"", "headers": (), "content": b"",
             "trailers": None, "timestamp_start": 0.0, "timestamp_end": None}  # fmt: skip
    with pytest.raises(TypeError):
        http.Response(**wrong)
    monkeypatch.setattr(http.MessageData, "__post_init__", http.MessageData.__post_init__)  # put back at the end
    stock_addons.trust_messages()
    assert http.Response(**wrong).data.status_code == "200"


def test_options_are_mitmproxys() -> None:
    """Every option has the value that mitmproxy gives it, set or not; what could be changed in place is a copy."""
    lean_ones, plain = stock_addons.LeanOptions(), options.Options()
    for one in (lean_ones, plain):
        one.update(http2=False, certs=["a"], confdir="y")
    for name, _ in plain.items():  # noqa: PERF102  # no dict
        assert getattr(lean_ones, name) == getattr(plain, name), name
    lean_ones.certs.append("b")
    assert lean_ones.certs == ["a"]
    with pytest.raises(AttributeError, match="no option nonsense"):
        _ = lean_ones.nonsense


def test_a_changed_option_is_seen_at_once() -> None:
    """Whoever hears of a change reads the new value, however often the old one was read; one that is refused leaves
    the old one in force."""
    made = stock_addons.LeanOptions()
    heard = []

    def hear(changed: options.Options, _updated: set[str]) -> None:
        heard.append(changed.listen_port)
        if changed.listen_port == 3:
            raise exceptions.OptionsError("not this one")

    made.subscribe(hear, ["listen_port"])
    for port in (1, 2):
        made.update(listen_port=port)
        assert made.listen_port == made.listen_port == port
    with pytest.raises(exceptions.OptionsError):
        made.update(listen_port=3)
    assert made.listen_port == 2
    made.reset()
    assert made.listen_port is None
    assert heard == [1, 2, 3, 2, None]
