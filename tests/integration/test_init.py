"""`hsmitm init`: what it makes, on SoftHSM and on a partition that exists already; and what it refuses to touch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.member.process import MemberProcess
from hsm.uri import KeyURI
from hsm.wire.member import Open, Opened, Selector
from tests.integration.harness import HSMITM, System, hsmitm
from tests.softhsm import MODULE, PIN, Store, in_s, make_store


def init(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`hsmitm init` with the quickest keys."""
    return hsmitm("init", "--dir", str(directory), "--key-type", "p256", *more)


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_makes_everything(softhsm_module: str, tmp_path: Path) -> None:
    """One command: partition, random PIN in a private file, two CA keys, certificates, a configuration that checks."""
    done = init(tmp_path / "d")
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "d"
    pin = (directory / "pin").read_text().strip()
    assert len(pin) >= 16
    assert stat.S_IMODE((directory / "pin").stat().st_mode) == 0o600
    assert pin not in done.stdout + done.stderr + (directory / "hsmitm.toml").read_text()
    assert hsmitm("check", "--config", str(directory / "hsmitm.toml")).returncode == 0
    again = init(tmp_path / "e")
    assert again.returncode == 0
    assert (tmp_path / "e" / "pin").read_text().strip() != pin


def test_ca_key_is_on_the_partition_only(softhsm_module: str, tmp_path: Path) -> None:
    """The CA keys are sensitive and were never extractable, and no file holds them in the clear."""
    system = System.make(tmp_path / "d", key_type="rsa-2048")

    async def look() -> Opened:
        process = await MemberProcess.spawn({"SOFTHSM2_CONF": str(system.directory / "softhsm2.conf")})
        try:
            pin = (system.directory / "pin").read_text().strip()
            keys = {name: KeyURI(object=f"hsmitm-forward-{name}") for name in ("trust", "untrust")}
            opened = await process.channel.call(Open(MODULE, Selector("hsmitm"), pin, 1, keys), in_s(10))
            assert isinstance(opened, Opened)
            return opened
        finally:
            await process.end()

    opened = asyncio.run(look())
    certificate = x509.load_pem_x509_certificate(system.ca.read_bytes())
    assert opened.keys["trust"].guarded
    assert opened.keys["untrust"].guarded
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert opened.keys["trust"].spki == public
    for content in snapshot(tmp_path).values():
        assert b"PRIVATE KEY" not in content
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_never_overwrites(softhsm_module: str, tmp_path: Path) -> None:
    """A second init in the same place changes nothing and says so; nor does one after a half-finished first."""
    assert init(tmp_path).returncode == 0
    before = snapshot(tmp_path)
    done = init(tmp_path)
    assert done.returncode == 78
    assert "it is not overwritten" in done.stderr
    assert snapshot(tmp_path) == before
    (tmp_path / "hsmitm.toml").unlink()
    done = init(tmp_path)
    assert done.returncode == 78
    assert "exists without a hsmitm.toml" in done.stderr
    before.pop(str(tmp_path / "hsmitm.toml"))
    assert snapshot(tmp_path) == before


@pytest.fixture
def foreign(softhsm_module: str, tmp_path: Path) -> Store:
    """A partition that somebody else made, without keys of ours."""
    return asyncio.run(make_store(tmp_path / "hsm", {"unrelated": "p256"}, label="lunapartition1"))


def init_on(store: Store, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`init` for a real HSM: its library, its partition, its PIN file, its environment."""
    (variable,) = (f"{name}={value}" for name, value in store.environment.items())
    return init(
        directory, "--module", MODULE, "--token", store.label, "--pin-file", str(store.pin_file),
        "--env", variable, *more,
    )  # fmt: skip


def test_existing_partition_gets_only_what_is_missing(foreign: Store, tmp_path: Path) -> None:
    """On a partition that exists: it says what it will make, makes that, and uses it again the next time."""
    done = init_on(foreign, tmp_path / "a", "--yes")
    assert done.returncode == 0, done.stderr
    assert "will make the key 'hsmitm-forward-trust' (p256) on partition 'lunapartition1'" in done.stdout
    assert PIN not in done.stdout + (tmp_path / "a" / "hsmitm.toml").read_text()
    assert hsmitm("check", "--config", str(tmp_path / "a" / "hsmitm.toml")).returncode == 0
    again = init_on(foreign, tmp_path / "b", "--yes")
    assert again.returncode == 0, again.stderr
    assert "will use the key 'hsmitm-forward-trust'" in again.stdout
    assert "made the key" not in again.stdout
    assert hsmitm("check", "--config", str(tmp_path / "b" / "hsmitm.toml")).returncode == 0


def test_existing_partition_is_not_touched_without_consent(foreign: Store, tmp_path: Path) -> None:
    """Without a yes nothing is made on a real HSM."""
    done = init_on(foreign, tmp_path / "a")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a" / "hsmitm.toml").exists()
    said = init_on(foreign, tmp_path / "b", "--yes").stdout
    assert "made the key 'hsmitm-forward-trust'" in said


def test_wrong_arguments(softhsm_module: str, tmp_path: Path) -> None:
    """Each wrong argument gets its sentence."""
    cases = {
        ("--key-type", "rsa-1024"): "use one of rsa-2048",
        ("--module", MODULE): "--module and --token go together",
        ("--listen", "8080"): "write host:port",
        ("--module", MODULE, "--token", "x"): "--pin-file FILE",
        ("--module", MODULE, "--token", "x", "--pin-file", str(tmp_path / "absent")): "cannot read the PIN file",
    }
    for arguments, sentence in cases.items():
        done = hsmitm("init", "--dir", str(tmp_path / "d"), *arguments)
        assert done.returncode == 78, arguments
        assert sentence in done.stderr, done.stderr
    assert not (tmp_path / "d" / "hsmitm.toml").exists()


def test_the_security_officers_pin_does_not_stay_beside_the_token(softhsm_module: str, tmp_path: Path) -> None:
    """Who takes the directory over has not the PIN that replaces PINs: it is kept nowhere, or where one says."""
    done = init(tmp_path / "d")
    assert done.returncode == 0, done.stderr
    assert "the security officer's PIN is kept nowhere" in done.stdout
    assert {one.name for one in (tmp_path / "d").iterdir()} >= {"pin", "hsmitm.toml"}
    assert not (tmp_path / "d" / "so-pin").exists()
    kept = tmp_path / "officer"
    done = init(tmp_path / "e", "--so-pin-file", str(kept))
    assert done.returncode == 0, done.stderr
    secret = kept.read_text().strip()
    assert len(secret) >= 16
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert f"is in {kept}" in done.stdout
    assert secret not in done.stdout + done.stderr
    again = init(tmp_path / "f", "--so-pin-file", str(kept))
    assert again.returncode == 78
    assert f"{kept} exists; it is not overwritten" in again.stderr


def test_on_a_terminal_the_security_officers_pin_is_shown_once(softhsm_module: str, tmp_path: Path) -> None:
    """An operator at a terminal can write it down; no file has it."""
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        [*HSMITM, "init", "--dir", str(tmp_path / "d"), "--key-type", "p256"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the terminal ends with the process
            while data := os.read(terminal, 4096):
                said += data
        assert process.wait(30) == 0
    os.close(terminal)
    (secret,) = re.findall(rb"officer's PIN is ([0-9a-f]{24});", said)
    assert not [one for one in tmp_path.rglob("*") if one.is_file() and secret in one.read_bytes()]


def test_check_says_what_keeps_workers_and_what_they_carry(softhsm_module: str, tmp_path: Path) -> None:
    """Before anything runs an operator reads what keeps a taken-over worker from the keys, how many connections the
    limit of open files allows, and that an SO PIN beside the token is out of place."""
    assert init(tmp_path / "d").returncode == 0
    toml = tmp_path / "d" / "hsmitm.toml"
    done = hsmitm("check", "--config", str(toml))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^ok +workers in 'hsmitm run': .*no new privileges, Landlock ABI \d", done.stdout, re.MULTILINE)
    assert re.search(r"open files: the limit allows about \d+ connections for each worker, \d+ for \d+", done.stdout)
    (tmp_path / "d" / "so-pin").write_text("4711")
    text = toml.read_text()
    flows = tmp_path / "flows"
    toml.write_text(
        text.replace('# options = { stream_large_bodies = "1m" }', f'options = {{ hardump = "{flows}/x" }}')
    )
    few = subprocess.run(
        ["prlimit", "--nofile=1024:1024", *HSMITM, "check", "--config", str(toml)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert few.returncode == 0, few.stdout
    assert re.search(r"^WARN +.*/so-pin: the security officer's PIN stands beside", few.stdout, re.MULTILINE)
    assert re.search(
        rf"^WARN +mitmproxy\.options\.hardump: {flows}/x is out of workers' reach", few.stdout, re.MULTILINE
    )
    assert re.search(r"^WARN +open files: .* about 480 connections .* LimitNOFILE=", few.stdout, re.MULTILINE)
    toml.write_text(
        toml.read_text().replace("# worker_user = ", "worker_user = ").replace('"hsmitm-proxy"', '"absent"')
    )
    if os.geteuid() == 0:
        assert "run.worker_user: there is no user 'absent'" in hsmitm("check", "--config", str(toml)).stdout
