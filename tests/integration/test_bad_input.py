"""Every wrong configuration: one clear sentence that says what to do, a non-zero exit, no traceback, no PIN wasted."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.member.process import MemberProcess
from hsm.wire.member import Initialise
from tests.integration.harness import System, hsmitm
from tests.softhsm import MODULE, in_s

EX_CONFIG = 78


@pytest.fixture(scope="module")
def prepared(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> System:
    """A directory made by init, to be copied."""
    return System.make(tmp_path_factory.mktemp("prepared") / "s", workers="1")


@pytest.fixture
def system(prepared: System, tmp_path: Path) -> System:
    """A copy of its own for each test: the same keys in a token store of its own."""
    directory = tmp_path / "s"
    shutil.copytree(prepared.directory, directory)
    for name in ("hsmitm.toml", "softhsm2.conf"):
        path = directory / name
        path.write_text(path.read_text().replace(str(prepared.directory), str(directory)))
    return System(directory)


def software_ca(*, ca: bool = True, days: int = 10) -> str:
    """A certificate with a software key: never the one on the partition."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "software")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=100))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def not_pkcs11(system: System) -> None:
    libc = next(str(path) for path in Path("/").glob("lib/*/libc.so.6"))
    system.edit(module=f'"{libc}"')


def certificate(text: str) -> Callable[[System], None]:
    def replace(system: System) -> None:
        system.ca.unlink()
        system.ca.write_text(text)

    return replace


def second_token(system: System) -> None:
    async def initialise() -> None:
        process = await MemberProcess.spawn({"SOFTHSM2_CONF": str(system.directory / "softhsm2.conf")})
        try:
            await process.channel.call(Initialise(MODULE, "hsmitm", "so-pin-0", "user-pin-0"), in_s(10))
        finally:
            await process.end()

    asyncio.run(initialise())


def edit(**lines: str) -> Callable[[System], None]:
    return lambda system: system.edit(**lines)


CASES: dict[str, tuple[Callable[[System], object], str]] = {
    "no such module": (edit(module='"/nowhere/lib.so"'), "no PKCS#11 module at /nowhere/lib.so"),
    "not PKCS#11": (not_pkcs11, "is a library but not a PKCS#11 module"),
    "not a library": (edit(module='"./softhsm2.conf"'), "cannot load the PKCS#11 module"),
    "no such partition": (edit(token='"absent"'), "no partition has label 'absent'. This module shows: 'hsmitm'"),
    "two with one label": (second_token, "2 partitions have label 'hsmitm'"),
    "key missing": (
        lambda s: s.toml.write_text(s.toml.read_text().replace("object=hsmitm-forward-trust", "object=gone")),
        "no private key pkcs11:token=hsmitm;object=gone",
    ),
    "one CA for both": (
        lambda s: s.toml.write_text(s.toml.read_text().replace("forward-untrust", "forward-trust")),
        "clients would trust servers that did not verify. Give forward.untrust a self-signed CA",
    ),
    "another key's certificate": (certificate(software_ca()), "their public keys differ"),
    "not a CA": (certificate(software_ca(ca=False)), "is not a CA certificate"),
    "expired CA": (certificate(software_ca(days=-1)), "expired on"),
    "no certificate": (certificate("nothing"), "holds no PEM certificate"),
    "certificate absent": (lambda s: s.ca.unlink(), "cannot read the CA certificate"),
    "PIN file absent": (lambda s: (s.directory / "pin").unlink(), "cannot read the PIN file"),
    "PIN file open to others": (lambda s: (s.directory / "pin").chmod(0o644), "can be read by others"),
    "unknown key": (lambda s: s.toml.write_text("[proxi]\n" + s.toml.read_text()), "proxi: unknown field"),
    "wrong type": (edit(workers='"two"'), "proxy.workers: expected `int`, got `str`"),
    "no script": (edit(scripts='["absent.py"]'), "mitmproxy.scripts: there is no file"),
    "unknown option": (edit(options="{ nonsense = 1 }"), "mitmproxy has no such option"),
    "broken script": (
        lambda s: ((s.directory / "broken.py").write_text("def broken(:"), s.edit(scripts='["broken.py"]')),
        "mitmproxy could not start",
    ),
    "no such group": (edit(run__group='"no-such-group"'), "there is no group 'no-such-group'"),
}


@pytest.mark.parametrize("case", [name for name in CASES if name != "no such partition"])
def test_run_says_what_is_wrong(system: System, case: str) -> None:
    """`hsmitm run` on a wrong configuration ends with status 78 and a sentence."""
    spoil, sentence = CASES[case]
    spoil(system)
    done = hsmitm("run", "--config", str(system.toml), timeout_s=60)
    assert done.returncode == EX_CONFIG, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def test_run_waits_for_a_partition(system: System) -> None:
    """A partition that is misspelt looks like one of an HSM that is not there yet: `hsmitm run` says which there are,
    and tries again."""
    spoil, sentence = CASES["no such partition"]
    spoil(system)
    with system:
        system.until_logged("no member serves the forward-trust key yet", sentence)


@pytest.mark.parametrize("case", [name for name in CASES if name not in ("broken script", "no such group")])
def test_check_says_what_is_wrong(system: System, case: str) -> None:
    """`hsmitm check` finds the same, without serving."""
    spoil, sentence = CASES[case]
    spoil(system)
    done = hsmitm("check", "--config", str(system.toml))
    assert done.returncode == EX_CONFIG
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert any(sentence in line for line in wrong), done.stdout
    assert "Traceback" not in done.stderr


def test_check_says_what_is_right(system: System) -> None:
    """A right configuration, TLS options of mitmproxy included: every line is ok, and nothing is left running."""
    system.edit(options='{ tls_version_client_min = "TLS1_3" }')
    done = hsmitm("check", "--config", str(system.toml))
    assert done.returncode == 0, done.stdout
    assert "proved by a signature" in done.stdout
    assert "WRONG" not in done.stdout


def test_port_in_use(system: System) -> None:
    """A taken port is named, for the proxy and for the status page."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        system.edit(listen=f'"{address}"')
        done = hsmitm("run", "--config", str(system.toml))
        assert done.returncode == EX_CONFIG
        assert f"the address {address} is in use by another program" in done.stderr
        assert "WRONG  proxy.listen" in hsmitm("check", "--config", str(system.toml)).stdout
        system.edit(listen='"127.0.0.1:0"')
        text = system.toml.read_text()
        system.toml.write_text(
            text.replace("[status]\n", f'[status]\nlisten = "{address}"\n').replace('listen = ""\n', "")
        )
        done = hsmitm("run", "--config", str(system.toml))
        assert done.returncode == EX_CONFIG
        assert "status.listen: the address" in done.stderr


def test_run_directory_open_to_others(system: System) -> None:
    """A socket directory that others can write is refused: whoever replaces the socket could ask for certificates."""
    run = system.directory / "run"
    run.mkdir()
    run.chmod(0o777)
    done = hsmitm("run", "--config", str(system.toml))
    assert done.returncode == EX_CONFIG
    assert "chmod go-w" in done.stderr


def test_wrong_pin_is_tried_once(system: System) -> None:
    """A wrong PIN: one login, then never again over restarts, until it is changed; and the right one works at once."""
    right = (system.directory / "pin").read_text()
    (system.directory / "pin").write_text("wrong-secret-0815\n")
    first = hsmitm("run", "--config", str(system.toml))
    assert first.returncode == EX_CONFIG
    assert "CKR_PIN_INCORRECT" in first.stderr
    for command in ("run", "signer", "check"):
        again = hsmitm(command, "--config", str(system.toml))
        assert again.returncode == EX_CONFIG
        said = again.stderr + again.stdout
        assert "refused this PIN before" in said
        assert "CKR_PIN_INCORRECT" not in said
        assert "wrong-secret-0815" not in said + first.stderr
    (system.directory / "pin").write_text(right)
    with system:
        assert system.status().members[0].state == "up"


def test_configuration_absent() -> None:
    """Without a configuration the next step is named."""
    for command in ("run", "signer", "proxy", "status"):
        done = hsmitm(command, "--config", "absent.toml")
        assert done.returncode == EX_CONFIG
        assert "make one with 'hsmitm init'" in done.stderr


def test_status_without_a_signer(system: System) -> None:
    """Asking for the status of what does not run says so."""
    done = hsmitm("status", "--config", str(system.toml))
    assert done.returncode == 69
    assert "no signer listens at" in done.stderr
