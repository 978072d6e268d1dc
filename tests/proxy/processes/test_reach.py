"""What of the file system a worker is given, from its configuration. Nothing is started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config.file import Config, parse
from proxy.processes import reach

_TOML = """
[[hsm.members]]
name = "m1"
module = "/lib/softhsm.so"
token = "t"
pin = {{ file = "pin" }}
environment = {{ SOFTHSM2_CONF = "{conf}" }}

[forward.trust]
certificate = "trust.pem"
key = "pkcs11:token=t;object=a;type=private"
[forward.untrust]
certificate = "untrust.pem"
key = "pkcs11:token=t;object=b;type=private"
[proxy]
upstream_ca = "roots.pem"
[pages]
template = "page.html"
[[upstream.client_certificates]]
name = "us"
certificate = "us.pem"
key = "us.key"
[mitmproxy]
scripts = ["{script}"]
"""


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], Config]:
    """A configuration whose script stands where the test says, with all its files."""
    for name in ("run", "state", "tokens/t", "scripts/data"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "pin",
        "so-pin",
        "tokens/t/key",
        "roots.pem",
        "page.html",
        "us.pem",
        "us.key",
        "a.py",
        "sibling.py",
        "notes.txt",
        "scripts/b.py",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / "conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")

    def read(script: str) -> Config:
        text = _TOML.format(script=script, conf=tmp_path / "conf")
        (tmp_path / "hsmitm.toml").write_text(text)
        return parse(text.encode(), tmp_path / "hsmitm.toml")

    return read


def _within(config: Config, name: str) -> bool:
    """Whether a worker may read a file of the configuration's directory."""
    path = config.base / name
    return any(path == Path(one) or Path(one) in path.parents for one in reach.of_worker(config, {}).reads)


@pytest.mark.parametrize("script", ["a.py", "scripts/b.py"])
def test_nothing_that_leads_to_a_key_is_given(configured: Callable[[str], Config], script: str) -> None:
    """Whatever stands beside it: PINs, token stores, their configuration, state and run directory are not given."""
    config = configured(script)
    for name in ("pin", "so-pin", "tokens/t/key", "conf", "state/x", "run/admin.token"):
        assert not _within(config, name), name


def test_what_the_configuration_names_is_given(configured: Callable[[str], Config]) -> None:
    """The file itself, roots, scripts, and beside a script what it can import; of a directory for scripts all."""
    config = configured("a.py")
    for name in ("hsmitm.toml", "roots.pem", "page.html", "us.pem", "us.key", "a.py", "sibling.py"):
        assert _within(config, name), name
    assert not _within(config, "notes.txt")
    assert not _within(config, "scripts/b.py")
    assert str(config.base) in reach.of_worker(config, {}).lists
    assert _within(configured("scripts/b.py"), "scripts/data/x")


def test_a_link_to_a_secret_gives_nothing(configured: Callable[[str], Config]) -> None:
    """A script, or a file of roots, that is a link to a PIN is none."""
    config = configured("a.py")
    (config.base / "roots.pem").unlink()
    (config.base / "roots.pem").symlink_to(config.base / "pin")
    (config.base / "other.py").symlink_to(config.base / "pin")
    for name in ("roots.pem", "other.py", "pin"):
        assert not _within(config, name), name


def test_python_and_libraries_are_given(configured: Callable[[str], Config]) -> None:
    """A worker runs: the interpreter, our code, what certificates and names are resolved with; and no home."""
    config = configured("a.py")
    given = reach.of_worker(config, {"SSL_CERT_FILE": "/srv/roots.pem"})
    for path in ("/etc/hosts", "/usr/lib/x.so", sys.executable, reach.__file__, "/srv/roots.pem"):
        assert any(Path(one) in [Path(path), *Path(path).parents] for one in given.reads), path
    assert not {"/", "/home", "/root", "/tmp", "/var", str(Path.home())} & set(given.reads)
    assert not {str(config.run.path)} & {*given.reads, *given.lists}


def test_the_status_page_is_given_no_file_of_workers(configured: Callable[[str], Config]) -> None:
    """It reads its configuration, and no certificate, script or secret."""
    config = configured("scripts/b.py")
    reads = reach.of_page(config, {}).reads
    assert [one for one in reads if Path(one).is_relative_to(config.base)] == [str(config.path)]
