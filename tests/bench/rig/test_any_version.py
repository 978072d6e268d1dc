"""A configuration of whatever version, made fit for a measurement on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rig.any_version import settled
from hsm.errors import MisconfiguredError
from proxy.commands.init.init import initialise
from proxy.commands.init.wanted import Wanted
from proxy.config.file import load


async def test_of_now(softhsm_module: str, tmp_path: Path) -> None:
    """What `hsmitm init` writes today is understood: each line that has to change does, and the file is still right."""
    wanted = Wanted(
        directory=tmp_path, module=None, token=None, key_type="p256", listen="127.0.0.1:0", status_listen="",
        upstream_ca=None,
    )  # fmt: skip
    await initialise(wanted, lambda _: None, lambda _: True)
    path, roots = tmp_path / "hsmitm.toml", tmp_path / "roots.pem"
    roots.write_bytes((tmp_path / "forward-trust.pem").read_bytes())
    path.write_text(settled(path.read_text(), roots, office=True))
    file = load(path).file
    assert file.proxy.workers == 1
    assert "LD_PRELOAD" in file.run.worker_environment
    assert [str(one) for one in file.proxy.allow_destinations] == ["127.0.0.0/8"]
    text = path.read_text()
    assert "new_names_per_s = 100000.0" in text
    assert "new_names_burst = 1000000" in text


def test_of_others() -> None:
    """A line that an older version has not is not put in, and a file that is no such file is an error."""
    text = settled("[proxy]\nworkers = 0\n", Path("/roots.pem"), office=True)
    assert text == '[proxy]\nworkers = 1\nupstream_ca = "/roots.pem"\n'
    with pytest.raises(MisconfiguredError, match="not as 'hsmitm init' writes it"):
        settled("[proxy]\nworkers = 4\n", Path("/roots.pem"), office=False)
