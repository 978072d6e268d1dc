"""`hsmitm run` on one vendor's token, or on several vendors' as an HA group: forward and inbound, RSA and EC."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import shutil
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from bench.rig.visits import Visit, Visitors
from hsm.certificates.ca import approve_ca
from hsm.member.process import MemberProcess
from hsm.schemes import PublicKey, certificate_scheme
from hsm.uri import KeyURI
from hsm.wire.admin import MemberStatus
from hsm.wire.member import Open, Selector, Sign, Signature
from proxy.config import edit
from tests.integration.harness import Reply, System, hsmitm
from tests.integration.inbound_system import InboundSystem
from tests.modules.vendor import Vendor
from tests.softhsm import in_s
from tests.waiting import until, wait_until

_DAYS = 365


@dataclass
class ModuleSystem(InboundSystem):
    """`vendors` by the names of the members that they are."""

    vendors: dict[str, Vendor] = field(default_factory=dict)

    @classmethod
    def by_init(cls, vendor: Vendor, directory: Path, upstream_ca: str) -> Self:
        """`hsmitm init` on the vendor's token makes RSA keys; nothing is edited that an operator would not edit."""
        given = [word for name, value in vendor.environment.items() for word in ("--env", f"{name}={value}")]
        made = hsmitm(
            "init", "--dir", str(directory), "--module", vendor.module, "--token", vendor.token,
            "--pin-file", str(vendor.pin_file), *given, "--key-type", "rsa-2048", "--yes",
            "--listen", "127.0.0.1:0", "--status-listen", "", timeout_s=60,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        system = cls(directory, vendors={"hsm1": vendor})
        system._settle(upstream_ca)
        return system

    @classmethod
    def of_group(cls, vendors: Sequence[Vendor], directory: Path, upstream_ca: str) -> Self:
        """The same two RSA keys on each token, under labels and ids of its own; several vendors are an HA group."""
        plain = System.make(directory)
        system = cls(directory, vendors={vendor.name: vendor for vendor in vendors})
        text = system.toml.read_text()
        for name, vendor in system.vendors.items():
            text = edit.with_member(text, vendor.member(name, sessions=4))
        (first,) = plain.config.file.hsm.members
        text = edit.without_member(text, first.name)
        if len(vendors) > 1:
            text = text.replace("high_availability = false", "high_availability = true")
        system.toml.write_text(text)
        for which in ("trust", "untrust"):
            private = system.import_key_everywhere(which)
            system._use(which, f"{vendors[0].name}-{which}", certificate_by(private))
        system._settle(upstream_ca)
        return system

    def import_key_everywhere(self, name: str) -> rsa.RSAPrivateKey:
        """An RSA key, on each token under another label and another id."""
        private = rsa.generate_private_key(65537, 2048)
        for place, vendor in enumerate(self.vendors.values(), 1):
            label = f"{vendor.name}-{name}"
            vendor.import_rsa(private, label, bytes([place]) * (4 + place) + name.encode())
            self.publics[label] = private.public_key()
        return private

    def _settle(self, upstream_ca: str) -> None:
        (self.directory / "origin-ca.pem").write_text(upstream_ca)
        (self.directory / "site-root.pem").write_text(self.site_ca.pem)
        self.edit(
            worker_environment='["LD_PRELOAD"]', allow_destinations='["127.0.0.0/8", "::1"]', workers="1",
            upstream_ca='"origin-ca.pem"', keep_alive_s="1.0",
            new_names_per_s="1000.0", new_names_burst="1000",
        )  # fmt: skip

    def _use(self, which: str, label: str, certificate: bytes) -> None:
        """This key is the forward trust, or untrust, CA's."""
        (self.directory / f"{which}-imported.pem").write_bytes(certificate)
        section = f"forward.{which}"
        self.edit(**{
            f"{section}__certificate": f'"{which}-imported.pem"',
            f"{section}__key": f'"pkcs11:object={label};type=private"',
        })  # fmt: skip

    def use_ec_for_untrusted(self) -> None:
        """The CA for servers that do not verify has a P-256 key, whatever the other has."""
        (vendor,) = self.vendors.values()
        vendor.make_key("ec-ca", "p256")
        self._use("untrust", "ec-ca", asyncio.run(_self_signed(vendor, "ec-ca")))

    def add_key(self, label: str, key_type: str) -> None:
        """A site's key on the only token."""
        (vendor,) = self.vendors.values()
        vendor.make_key(label, key_type)  # type: ignore[arg-type]
        self.publics[label] = vendor.public_key(label)

    def copied(self, directory: Path, **member: object) -> ModuleSystem:
        """A signer with this configuration, a state of its own, and other settings of its member; not started."""
        directory.mkdir()
        for path in self.directory.glob("*.pem"):
            shutil.copy(path, directory)
        (vendor,) = self.vendors.values()
        text = edit.with_member(self.toml.read_text(), vendor.member("copy", **member))
        (directory / "hsmitm.toml").write_text(edit.without_member(text, "hsm1"))
        return ModuleSystem(directory, command="signer")

    @property
    def ca(self) -> Path:
        """What clients trust."""
        imported = self.directory / "trust-imported.pem"
        return imported if imported.exists() else self.directory / "forward-trust.pem"

    @property
    def proxy(self) -> str:
        """host:port of the proxy: the listener that is none of the sites'."""
        return next(
            one.address for one in self.status().listeners if int(one.address.rpartition(":")[2]) not in self.ports
        )

    def through(self, url: str, *options: str, trust: Path | None = None) -> Reply:
        """One request through the proxy."""
        return System.curl(self, url, *options, trust=trust)

    def check(self, status: int = 0) -> str:
        """`hsmitm check`."""
        done = hsmitm("check", "--config", str(self.toml), timeout_s=60)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def of(self, name: str) -> MemberStatus:
        """The member as the signer reports it."""
        return next(one for one in self.status().members if one.name == name)

    def signal(self, name: str, number: int) -> int:
        """To the member's process, which there must be: its id."""
        process = wait_until(lambda: self.of(name).pid, f"{name} has a process")
        os.kill(process, number)
        return process

    def until_up(self, *names: str) -> None:
        """Return once these members (all) serve with every key."""
        wanted = names or tuple(self.vendors)

        def up() -> bool:
            members = {one.name: one for one in self.status().members}
            return all(members[name].state == "up" and not any(members[name].keys.values()) for name in wanted)

        wait_until(up, f"{wanted} are up: {self.status().members}", 25)

    def clients(self, name: str, version: ssl.TLSVersion, number: int, at_once: int = 12) -> list[str]:
        """What went wrong with so many clients of a site of ours, each with a handshake of its own."""
        return asyncio.run(self.each_client(name, version, number, at_once))

    async def each_client(self, name: str, version: ssl.TLSVersion, number: int, at_once: int) -> list[str]:
        """As `clients`, where an event loop runs."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.minimum_version = context.maximum_version = version
        places, errors = asyncio.Semaphore(at_once), []

        async def client() -> None:
            try:
                async with places, asyncio.timeout(30):
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", self.port, ssl=context, server_hostname=name
                    )
                    writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                    answer = await reader.read()
                    writer.close()
                if b" 200 " not in answer.partition(b"\r\n")[0]:
                    errors.append(answer[:200].decode())
            except (OSError, EOFError, TimeoutError) as error:
                errors.append(f"{type(error).__name__}: {error}")

        await asyncio.gather(*(client() for _ in range(number)))
        return errors

    def visit(self, port: int, number: int, at_once: int = 12) -> list[Visit]:
        """So many connections to ever new hosts, some at a time."""
        return asyncio.run(_visit(self, port, number, at_once))


async def _visit(system: ModuleSystem, port: int, number: int, at_once: int) -> list[Visit]:
    proxy = await asyncio.to_thread(lambda: system.proxy)
    async with Visitors(proxy, system.ca, port, at_once) as visitors:
        await until(lambda: len(visitors.visits) >= number, f"{number} connections", 60)
    return visitors.visits


def certificate_by(private: rsa.RSAPrivateKey) -> bytes:
    """A CA certificate that a key in a file signs itself, in PEM."""
    now = dt.datetime.now(dt.UTC)
    approved = approve_ca("imported CA", private.public_key(), _DAYS, now, secrets.randbits(120))
    signature = private.sign(approved.tbs, padding.PKCS1v15(), hashes.SHA256())
    return _pem(approved.certificate(signature, private.public_key()))


async def _self_signed(vendor: Vendor, label: str) -> bytes:
    """A CA certificate that a key on a token signs itself, in PEM."""
    public: PublicKey = await asyncio.to_thread(vendor.public_key, label)
    approved = approve_ca("EC CA", public, _DAYS, dt.datetime.now(dt.UTC), secrets.randbits(120))
    process = await MemberProcess.spawn(vendor.environment)
    try:
        keys = {label: KeyURI(object=label)}
        await process.channel.call(Open(vendor.module, Selector(vendor.token), vendor.pin, 1, keys), in_s(20))
        asked = Sign(label, certificate_scheme(public).name, approved.digest, approved.tbs)
        signed = await process.channel.call(asked, time.monotonic() + 20)
    finally:
        await process.end()
    assert isinstance(signed, Signature)
    return _pem(approved.certificate(signed.signature, public))


def _pem(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
