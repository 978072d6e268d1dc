"""hsmitm.toml read again by a running signer: every field of every section, changed one by one."""

from __future__ import annotations

import asyncio
import datetime
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from addons.edge.settings import Bounds
from addons.policy.settings import Accept, ClientCertificate, Profile, Rule
from hsm.secrets.settings import PinSource
from hsm.signer.signer import Signer
from proxy.config.file import Config, File
from tests.cas import make_ca
from tests.fields import paths, replaced
from tests.hsm.members import copy_of
from tests.hsm.signers import all_up, serving
from tests.hsm.sites import certify
from tests.softhsm import MODULE, PIN, Store, make_store

LATER = "takes effect when hsmitm is started again"
TWIN = "other"
OTHERWISE: dict[str, Any] = {
    "expired": "allow", "revoked": "allow", "min_rsa": 3072, "versions": "1.3", "suites": "compatible",
    "client_certificate": "without", "sni_mismatch": "decrypt", "host_mismatch": "allow",
}  # fmt: skip
"""Values of a profile that are not the default, where "block" is that or is none."""
OWN = ("upstream.client_certificates", (ClientCertificate(name="ours", certificate="ours.pem"),))
PINNED = Accept(host="nas.example", spki_sha256="0" * 64, reason="test", expires=datetime.date(2099, 1, 1))


@pytest.fixture(scope="module")
def configuration(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An HA group of two members, each on a partition of another name, with both CAs and a site."""
    directory = tmp_path_factory.mktemp("configuration")

    async def make() -> Store:
        store = await make_store(directory / "one", {"trust": "p256", "untrust": "p256", "blog": "p256"})
        for name in ("trust", "untrust"):
            await make_ca(store, name, directory)
        return store

    store = asyncio.run(make())
    certify(store, "blog", directory / "blog.pem")
    certify(store, "blog", directory / "renewed.pem")
    twin = copy_of(store, directory / "two")
    for file in twin.directory.glob("tokens/*/token.object"):
        file.write_bytes(file.read_bytes().replace(store.label.encode(), TWIN.encode()))
    return Config(directory / "hsmitm.toml", msgspec.convert(tables(store, twin), File))


def tables(store: Store, twin: Store) -> dict[str, Any]:
    """What stands in the file."""
    return {
        "hsm": {"high_availability": True, "group": "ha", "members": [
            {"name": "m1", "module": MODULE, "token": store.label, "pin": {"file": str(store.pin_file)},
             "sessions": 2, "environment": store.environment},
            {"name": "m2", "module": MODULE, "token": TWIN, "pin": {"file": str(twin.pin_file)},
             "sessions": 2, "environment": twin.environment},
        ]},
        "forward": {name: {"certificate": f"{name}-ca.pem", "key": f"pkcs11:token={store.label};object={name}"}
                    for name in ("trust", "untrust")},
        "inbound": [{"listen": "127.0.0.1:8443", "sites": [
            {"names": ["blog.example"], "certificate": "blog.pem", "key": f"pkcs11:token={store.label};object=blog",
             "upstream": "https://127.0.0.1:443"}]}],
        "profiles": {"careful": {}},
    }  # fmt: skip


def transparent(inbound: list[Any]) -> list[Any]:
    """A transparent listener, whose sites name an upstream all the same: else two fields would change."""
    changed = structs.replace(inbound[0])
    structs.force_setattr(changed, "transparent", True)
    return [changed, *inbound[1:]]


def of_first(**fields: Any) -> Callable[[list[Any]], list[Any]]:
    """Other fields of the first table."""
    return lambda tables: [structs.replace(tables[0], **fields), *tables[1:]]


def at_reload(directory: Path, serial: str, slot: int) -> dict[str, Any]:
    """What is taken over while hsmitm runs: another value, or the path to change and what becomes of it.

    `serial` and `slot` are those of the first member's partition.
    """
    members, sites = "hsm.members", "inbound.sites"
    return {
        "hsm.members.name": "m3",
        "hsm.members.module": str(directory / "linked.so"),
        "hsm.members.pin.file": (f"{members}.pin", PinSource(file=str(directory / "pin"))),
        "hsm.members.pin.env": (f"{members}.pin", PinSource(env="TEST_PIN")),
        "hsm.members.pin.command": (f"{members}.pin", PinSource(command=["echo", PIN])),
        "hsm.members.pin.credential": (f"{members}.pin", PinSource(credential="pin")),
        "hsm.members.pin.prompt": (f"{members}.pin", PinSource(prompt=True)),
        "hsm.members.pin.empty": (f"{members}.pin", PinSource(empty=True)),
        "hsm.members.pin.pad": (f"{members}.pin", PinSource(pad=True)),
        "hsm.members.pin.none": (f"{members}.pin", PinSource(none=True)),
        "hsm.members.token": (members, of_first(token=None, serial=serial)),
        "hsm.members.serial": (members, of_first(token=None, serial=serial)),
        "hsm.members.slot": (members, of_first(token=None, slot=slot)),
        "hsm.members.sessions": 3,
        "hsm.members.environment": lambda old: old | {"ANOTHER": "value"},
        "hsm.members.start_timeout_s": 30.0,
        "hsm.members.codes": {"0x80000383": "busy"},
        "hsm.members.user_type": "crypto-user",
        "hsm.members.read_write": True,
        "hsm.auto_recovery_retry": 7,
        "hsm.attempt_timeout_ms": 250,
        "hsm.request_budget_ms": 2000,
        "hsm.keep_alive_s": 3.0,
        "hsm.unavailable": "queue:3000",
        "hsm.mints_per_s": 300.0,
        "hsm.decryptions_per_s": 30.0,
        "inbound.sites.names": ["news.example"],
        "inbound.sites.certificate": "renewed.pem",
        "inbound.sites.key": f"pkcs11:token={TWIN};object=blog",
        "inbound.sites.upstream": "https://127.0.0.1:444",
        "inbound.sites.upstream_name": "inside.example",
        "inbound.sites.upstream_ca": "roots.pem",
        "inbound.sites.upstream_certificate": "server.pem",
        "inbound.sites.default": True,
        "inbound.sites.client_certificates": (sites, of_first(client_certificates="request", client_ca="users.pem")),
        "inbound.sites.client_ca": (sites, of_first(client_certificates="require", client_ca="users.pem")),
        "inbound.sites.rsa_key_exchange": True,
        "inbound.sites.ocsp": "fetch",
        "inbound.sites.forwarded": "rfc7239",
        "inbound.sites.trusted_proxies": ["10.0.0.0/8"],
        "inbound.sites.proxy_protocol": True,
        "inbound.sites.half_close": True,
        "inbound.minimum_version": "TLS1.3",
        "inbound.maximum_version": "TLS1.2",
        "inbound.ciphers": ["AES-128-GCM"],
        "inbound.tickets": False,
        "policy.default": "block",
        "policy.mode": "warn",
        "policy.no_sni": "block",
        "policy.probe": "off",
        "policy.categories": {"bank": (".bank.example",)},
        "policy.rules": ("policy.rules", (Rule(name="none", action="block"),)),
        "upstream.accept": ("upstream.accept", (PINNED,)),
    } | {f"profiles.{one.name}": OTHERWISE.get(one.name, "block") for one in structs.fields(Profile)}


def at_start() -> dict[str, tuple[str, Any]]:
    """What waits for a new start: what the operator reads, and another value, or the path and what becomes of it."""
    cas, run = "[forward.trust] or [forward.untrust]", "[run]"
    return {
        "hsm.high_availability": ("[hsm] high_availability or group", False),
        "hsm.group": ("[hsm] high_availability or group", "another"),
        "forward.trust.certificate": (cas, "another.pem"),
        "forward.trust.key": (cas, "pkcs11:token=tests;object=another"),
        "forward.untrust.certificate": (cas, "another.pem"),
        "forward.untrust.key": (cas, "pkcs11:token=tests;object=another"),
        "forward.leaf_days": ("[forward] leaf_days", 8),
        "forward.cache_entries": ("[forward] cache_entries", 7),
        "inbound.listen": ("[[inbound]] listen or transparent", "127.0.0.1:8444"),
        "inbound.transparent": ("[[inbound]] listen or transparent", ("inbound", transparent)),
        "proxy.listen": ("[proxy]", "127.0.0.1:8081"),
        "proxy.mode": ("[proxy]", "transparent"),
        "proxy.workers": ("[proxy]", 3),
        "proxy.upstream_ca": ("[proxy]", "roots.pem"),
        "proxy.deny_destinations": ("[proxy]", ["loopback"]),
        "proxy.allow_destinations": ("[proxy]", ["127.0.0.1:8443"]),
        "proxy.connect_timeout_s": ("[proxy]", 3.0),
        "proxy.client_handshake_timeout_s": ("[proxy]", 3.0),
        "proxy.mint_timeout_s": ("[proxy]", 3.0),
        "proxy.handshake_threads": ("[proxy]", 3),
        "proxy.grace_s": ("[proxy]", 3.0),
        "proxy.not_tls": ("[proxy]", "pass"),
        "proxy.suites": ("[proxy]", "compatible"),
        "proxy.not_tls_ports": ("[proxy]", [25]),
        "status.listen": ("[status]", ""),
        "status.hosts": ("[status]", ["hsmitm.example"]),
        "status.user": ("[status]", pwd.getpwuid(os.getuid()).pw_name),
        "run.directory": (run, "elsewhere"),
        "run.state": (run, "elsewhere"),
        "run.group": (run, "root"),
        "run.users": (run, [pwd.getpwuid(os.getuid()).pw_name]),
        "run.worker_user": (run, "root"),
        "run.worker_paths": (run, ["flows"]),
        "run.worker_environment": (run, ["MINE"]),
        "run.hang_timeout_s": (run, 0.0),
        "upstream.client_certificates": ("[[upstream.client_certificates]]", OWN),
        "mitmproxy.scripts": ("[mitmproxy]", ["script.py"]),
        "mitmproxy.options": ("[mitmproxy]", {"http2": False}),
        "mitmproxy.stream": ("[mitmproxy]", []),
        "pages.contact": ("[pages]", "the help desk"),
        "pages.template": ("[pages]", "page.html"),
        "log.level": ("[log]", "debug"),
        "decryption_log.file": ("[decryption_log]", "stdout"),
    } | {f"limits.{one.name}": ("[limits]", one.default * 2 or 1) for one in structs.fields(Bounds)}


def changed(file: File, path: str, new: Any) -> File:
    """The file with another value at `path`, or with what `new` says to change instead."""
    where, value = new if isinstance(new, tuple) else (path, new)
    return replaced(file, where, value)


async def answers(signer: Signer, put: Callable[[File], None], base: File, path: str, new: Any) -> list[str]:
    """What a reload says to one change of the file, which is taken back after."""
    put(changed(base, path, new))
    lines = await signer.reload()
    put(base)
    await signer.reload()
    assert await signer.reload() == ["nothing changed"], path
    return lines


async def test_each_field_of_the_file_is_taken_over_or_named(
    configuration: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an operator changes in the file, a reload either takes it over and says so, or names it as waiting for a
    new start: never both, and never that nothing changed."""
    (tmp_path / "linked.so").symlink_to(MODULE)
    (tmp_path / "pin").write_text(PIN)
    (tmp_path / "pin").chmod(0o600)
    monkeypatch.setenv("TEST_PIN", PIN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    now, base = configuration, configuration.file

    def put(file: File) -> None:
        nonlocal now
        now = Config(configuration.path, file)

    async with serving(configuration.signer(), lambda: now.signer()) as signer:  # noqa: PLW0108  # `now` changes
        await all_up(signer)
        partition = signer.status().members[0].partition
        assert partition is not None
        reloaded, started = at_reload(tmp_path, partition.serial, partition.slot), at_start()
        assert sorted([*reloaded, *started]) == sorted(paths(File)), "a new field: say here how it may change"
        for path, new in reloaded.items():
            lines = await answers(signer, put, base, path, new)
            assert lines != ["nothing changed"], path
            assert [line for line in lines if line.endswith(LATER)] == [], path
        for path, (where, new) in started.items():
            assert await answers(signer, put, base, path, new) == [f"{where} changed, and {LATER}"], path


async def test_a_listener_is_added(configuration: Config) -> None:
    """A listener that is added is named as waiting for a new start; its sites' keys are served at once."""
    first = configuration.file.inbound[0]
    sites = [structs.replace(first.sites[0], names=["b.example"])]
    second = structs.replace(first, listen="127.0.0.1:8444", sites=sites)
    now = Config(configuration.path, structs.replace(configuration.file, inbound=[first, second]))
    async with serving(configuration.signer(), now.signer) as signer:
        await all_up(signer)
        assert await signer.reload() == [
            "inbound site b.example added, with the key of blog.example",
            "what workers read has changed: each takes it over with its next report, within seconds",
            f"[[inbound]] listen or transparent changed, and {LATER}",
        ]
