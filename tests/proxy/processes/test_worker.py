"""What a worker's process loads: a worker that is taken over finds no code of members, PINs or the signer in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.proxy.config.test_worker import EXAMPLE

_FORBIDDEN = ("hsm.token", "hsm.member", "hsm.group", "hsm.signer", "hsm.secrets", "hsm.audit", "pkcs11")


def _loaded(program: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has after `program`."""
    whole = f"import json, sys\n{program}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", whole, *arguments],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout))


def _of_the_key_side(modules: set[str]) -> list[str]:
    return sorted(one for one in modules if one.startswith(_FORBIDDEN))


def test_the_entry_loads_nothing_of_the_key_side() -> None:
    """A worker's program has in it neither what drives members nor what knows PINs, not even their settings."""
    loaded = _loaded("import proxy.processes.worker")
    assert "addons.forward.forward" in loaded
    assert _of_the_key_side(loaded) == []


def test_a_worker_that_has_read_its_configuration(tmp_path: Path) -> None:
    """Nor does it after it has read a configuration that has everything in it."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(EXAMPLE)
    program = "from proxy.processes import worker\nconfig = worker.load(__import__('pathlib').Path(sys.argv[1]))"
    loaded = _loaded(program + "\nassert len(config.inbound) == 2", str(path))
    assert _of_the_key_side(loaded) == []


def test_a_worker_for_our_own_sites() -> None:
    """Nor with what inbound inspection loads beside that."""
    loaded = _loaded("import proxy.processes.worker, addons.inbound.over_time")
    assert "addons.gnutls.connection" in loaded
    assert _of_the_key_side(loaded) == []


def test_a_forward_proxy_needs_no_gnutls(tmp_path: Path) -> None:
    """A worker that has no sites of ours to serve runs where GnuTLS is missing: it loads nothing of it."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(EXAMPLE)
    program = "from proxy.processes import worker\nworker.load(__import__('pathlib').Path(sys.argv[1]))"
    assert sorted(one for one in _loaded(program, str(path)) if one.startswith("addons.gnutls")) == []
