"""A thousand rules, two hundred connections, every mode: each lands on the rule that `hsmitm policy test` names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config.worker import load
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.integration.inbound_system import InboundSystem
from tests.policy.crowd import Reach, Visit, connect, expected, landed, rules, socks, straight, visits


@pytest.fixture(scope="module")
def origin_ca() -> OriginCA:
    """The CA of the internet."""
    return OriginCA()


@pytest.fixture(scope="module")
def origin(origin_ca: OriginCA) -> Iterator[OriginThread]:
    """The internet."""
    with OriginThread(origin_ca) as running:
        yield running


def with_rules(made: System, port: int) -> Path:
    """Give it the rules and a decryption log, whose place is returned."""
    (made.directory / "log").mkdir()
    made.edit(file='"log/decryption.jsonl"')
    made.toml.write_text(made.toml.read_text() + rules(port))
    return made.directory / "log/decryption.jsonl"


def compare(system: System, log: Path, all_: list[Visit], port: int, reach: Reach) -> None:
    """Each connection, and what was said of it."""
    own = {f"127.0.0.1:{port}" for port in getattr(system, "ports", [])}
    proxy = next(one.address for one in system.status().listeners if one.address not in own)
    host, _, listening = proxy.rpartition(":")
    if reach is straight:
        listening = str(port)
    config = load(system.toml)
    said = [expected(one, config, port) for one in all_]
    assert len(set(said)) > len(all_) // 3, "they are too much alike to show anything"
    found = landed(log, all_, (host, int(listening)), port, reach)
    assert list(zip(all_, found, strict=True)) == list(zip(all_, said, strict=True))


def test_an_explicit_proxy_and_our_own_sites(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path
) -> None:
    """CONNECT to names and addresses, plain requests, and clients of our own sites."""
    made = InboundSystem.make_inbound(tmp_path / "s", upstream_ca=origin_ca.pem, workers="2")
    made.generate(shop="p256")
    made.listener()
    made.site("www.r0.test", keys=["shop"], upstream=f"https://127.0.0.1:{origin.port}", upstream_name="in.test",
              upstream_ca="origin-ca.pem", default=True)  # fmt: skip
    log = with_rules(made, origin.port)
    with made as system:
        compare(system, log, visits(80, 1, addresses=True, plain=True), origin.port, connect)
        config, listener = load(system.toml), f"127.0.0.1:{made.port}"
        sites = [one for one in visits(30, 2) if one.sni]
        said = [expected(Visit(one.sni, one.sni, one.client), config, made.port, listener) for one in sites]
        found = landed(log, sites, ("127.0.0.1", made.port), made.port, straight)
        assert list(zip(sites, found, strict=True)) == list(zip(sites, said, strict=True))


def test_socks5(softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path) -> None:
    """SOCKS5 with names and addresses."""
    made = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="2", mode='"socks5"')
    log = with_rules(made, origin.port)
    with made as system:
        compare(system, log, visits(50, 3, addresses=True), origin.port, socks)


def test_behind_another_proxy(softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path) -> None:
    """With a parent proxy, which has no rules."""
    with System.make(tmp_path / "parent", upstream_ca=origin_ca.pem, workers="1") as parent:
        made = System.make(
            tmp_path / "s", upstream_ca=origin_ca.pem + parent.ca.read_text(), workers="1",
            mode=f'"upstream:http://{parent.proxy}"',
        )  # fmt: skip
        log = with_rules(made, origin.port)
        with made as system:
            compare(system, log, visits(20, 4), origin.port, connect)


REDIRECTED = """
import subprocess, sys
from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.policy.crowd import straight, visits
from tests.policy.test_thousand_rules import compare, with_rules

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ca = OriginCA()
with OriginThread(ca) as origin:
    made = System.make(Path(sys.argv[1]) / "s", upstream_ca=ca.pem, workers="1", mode='"transparent"')
    log = with_rules(made, origin.port)
    with made as system:
        port = system.proxy.rpartition(":")[2]
        nat = (
            "table ip nat { chain output { type nat hook output priority -100; "
            f"meta skuid != 0 accept; tcp dport {origin.port} redirect to :{port}; }}; }}"
        )
        subprocess.run(["nft", "-f", "-"], input=nat, text=True, check=True)
        compare(system, log, visits(30, 5), origin.port, straight)
        print("compared")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_redirected(softhsm_module: str, tmp_path: Path) -> None:
    """Clients that are redirected, and know of no proxy. In a network namespace of its own."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", REDIRECTED, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "compared\n"), done.stderr[-3000:]
