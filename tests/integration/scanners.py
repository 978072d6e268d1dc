"""TLS scanners of the distribution, and what they found that a careful operator would not want.

Each has a `..._objections`: sentences about one scan, empty where there is nothing to object to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

_SCAN_S = 300


@dataclass(frozen=True)
class Target:
    """A site to scan: its name, where it listens on the loopback address, and the CA of its certificates."""

    name: str
    port: int
    root: Path


def _program(package: str, *names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, f"{names[0]} is missing: ./dev test installs it on Debian; elsewhere install the package {package}"
    return found


def _run(command: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_SCAN_S,
        check=False, env=environment,
    )  # fmt: skip
    assert done.returncode >= 0, done
    return done.stdout + done.stderr


# sslscan: every version, cipher, group and signature scheme that the server can be brought to use


def sslscan(target: Target) -> ElementTree.Element:
    """Its XML: the element of the one server that was scanned."""
    program = _program("sslscan", "sslscan")
    said = _run([program, "--xml=-", "--show-sigs", f"--sni-name={target.name}", f"127.0.0.1:{target.port}"])
    found = ElementTree.fromstring(said[said.index("<?xml") :]).find("ssltest")
    assert found is not None, said
    return found


def sslscan_objections(found: ElementTree.Element) -> list[str]:
    """What is older than TLS 1.2 or has no AEAD, no forward secrecy, less than 112 bits, or SHA-1 in it."""
    objections = [
        f"{one.get('type')} {one.get('version')} is enabled"
        for one in found.iter("protocol")
        if one.get("enabled") == "1" and (one.get("type"), one.get("version")) not in (("tls", "1.2"), ("tls", "1.3"))
    ]
    for one in found.iter("cipher"):
        objections += [f"cipher {one.get('cipher')}: {why}" for why in _weaknesses(one)]
    for one in found.iter("renegotiation"):
        if one.get("supported") == "1" and one.get("secure") != "1":
            objections.append("insecure renegotiation")
    objections += [f"heartbleed in {one.get('sslversion')}" for one in _flagged(found, "heartbleed", "vulnerable")]
    objections += ["compression" for _ in _flagged(found, "compression", "supported")]
    objections += [
        f"group {one.get('name')}: {one.get('bits')} bits"
        for one in found.iter("group")
        if int(one.get("bits", "0")) < 112  # RFC 9325 section 4.3
    ]
    signatures = [(one.get("name") or "") for one in found.iter("connection-signature-algorithm")]
    signatures += [(one.text or "").strip() for one in found.iter("signature-algorithm")]
    objections += [f"signature {one}" for one in signatures if any(old in one.lower() for old in ("sha1", "md5"))]
    return objections


def _flagged(found: ElementTree.Element, tag: str, attribute: str) -> list[ElementTree.Element]:
    return [one for one in found.iter(tag) if one.get(attribute) == "1"]


def _weaknesses(cipher: ElementTree.Element) -> list[str]:
    name, found = cipher.get("cipher", ""), []
    # TLS 1.3's suites, and in OpenSSL's spelling those of TLS 1.2; "ADH-" and "AECDH-" are the anonymous ones.
    if not name.startswith(("TLS_AES_", "TLS_CHACHA20_", "ECDHE-ECDSA-", "ECDHE-RSA-", "DHE-RSA-")):
        found.append("no forward secrecy, or nobody proves who it is")
    if not any(aead in name for aead in ("GCM", "CHACHA20")):
        found.append("no AEAD")
    if int(cipher.get("bits", "0")) < 128:
        found.append(f"{cipher.get('bits')} bits")
    if int(cipher.get("dhebits", "2048")) < 2048:
        found.append(f"Diffie-Hellman with {cipher.get('dhebits')} bits")
    return found


# testssl.sh: defaults, preferences, and every attack that has a name


@dataclass(frozen=True)
class Finding:
    """One line of testssl.sh's report."""

    identifier: str
    severity: str
    text: str


def testssl(target: Target, directory: Path, *checks: str) -> list[Finding]:
    """Its findings. `directory` is for its report; `checks` are its options, for example "--protocols"."""
    report = directory / f"testssl-{target.name}.json"
    said = _run(
        [_program("testssl.sh", "testssl", "testssl.sh"), "--quiet", "--color", "0", "--warnings", "off",
         "--nodns", "none", "--ip", "127.0.0.1", "--add-ca", str(target.root), "--jsonfile", str(report), *checks,
         f"{target.name}:{target.port}"]
    )  # fmt: skip
    assert report.exists(), said
    # The identifier of what concerns one certificate of several ends in " <cert#1>".
    return [
        Finding(one["id"].partition(" ")[0], one["severity"], one["finding"]) for one in json.loads(report.read_text())
    ]


testssl.__test__ = False  # type: ignore[attr-defined]  # its name is the program's


def testssl_objections(
    findings: Collection[Finding], exceptions: Mapping[str, str], wanted: Collection[str]
) -> list[str]:
    """What is neither good nor neutral and has no exception (identifier to reason), and what of `wanted` was not
    looked at."""
    objections = [
        f"{one.identifier}: {one.severity}: {one.text}"
        for one in findings
        if one.severity not in ("OK", "INFO") and one.identifier not in exceptions
    ]
    seen = {one.identifier for one in findings}
    return objections + [f"{one}: not tested" for one in wanted if one not in seen]


testssl_objections.__test__ = False  # type: ignore[attr-defined]
