"""What the signing measurement may do to an operator's HSM, and what not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.sign.kind import KINDS
from bench.sign.target import configured
from hsm.errors import MisconfiguredError, PinRefusedError, RefusedError
from hsm.member.process import MemberProcess
from hsm.uri import KeyURI, parse
from hsm.wire.member import Open, Opened
from proxy.commands.init.init import initialise
from proxy.commands.init.wanted import Wanted
from proxy.config.file import Config, load
from tests.bench.test_commands import bench

P256 = KINDS["p256"]


@pytest.fixture
async def config(softhsm_module: str, tmp_path: Path) -> Config:
    """An operator's configuration: a partition with the keys of both CAs."""
    wanted = Wanted(
        directory=tmp_path / "own", module=None, token=None, key_type="p256", listen="127.0.0.1:0", status_listen=""
    )
    return load(await initialise(wanted, lambda _: None, lambda _: True))


async def private_keys(config: Config, *labels: str) -> list[str]:
    """Those of `labels` that are on the partition."""
    (member,) = config.members()
    process = await MemberProcess.spawn(member.environment)
    try:
        secret = (config.base / "pin").read_text().strip()
        opening = Open(member.module, member.selector, secret, 1, {one: KeyURI(object=one) for one in labels})
        opened = await process.channel.call(opening, time.monotonic() + 20)
        assert isinstance(opened, Opened)
        return [name for name, found in opened.keys.items() if not found.missing]
    finally:
        await process.end()


def test_an_operators_hsm(config: Config, tmp_path: Path) -> None:
    """`--config` with `--generate` makes keys and says so; then `--key` measures one of them, as what it is."""
    short = ("--seconds", "0.1", "--rounds", "1", "--sessions", "2", "--rate", "0", "--seed", "7")
    own = ("sign", "--config", str(config.path), *short)
    made = bench(tmp_path, *own, "--generate", "--key-type", "p384")
    assert any("hsmitm-bench-p384" in note and "left there" in note for note in made["notes"])
    measured = bench(tmp_path, *own, "--key", "pkcs11:token=hsmitm;object=hsmitm-bench-p384")
    assert {row["key"] for row in measured["rows"]} == {"p384"}
    assert (config.base / "pin").read_text().strip() not in (tmp_path / "result.json").read_text()


async def test_no_key_without_leave(config: Config) -> None:
    """No key is made on an operator's partition without `--generate`, and none that is missing is made up."""
    with pytest.raises(MisconfiguredError, match="--key URI"):
        await _configured(config)
    with pytest.raises(MisconfiguredError, match="no private key pkcs11:object=hsmitm-bench-p256"):
        await _configured(config, "pkcs11:object=hsmitm-bench-p256")
    assert await private_keys(config, "hsmitm-bench-p256", "hsmitm-forward-trust") == ["hsmitm-forward-trust"]


async def test_a_cas_key_is_not_measured(config: Config) -> None:
    """Nobody has a CA's key sign what a measurement makes up."""
    with pytest.raises(RefusedError, match="is the key of a CA"):
        await _configured(config, "pkcs11:object=hsmitm-forward-trust")


async def test_a_wrong_pin_is_tried_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PIN that the token refused is not tried by any other process of the measurement, nor by the next one."""
    (config.base / "pin").write_text("wrong\n")
    (config.base / "state").mkdir()
    uri = "pkcs11:object=hsmitm-forward-trust"
    with pytest.raises(PinRefusedError, match="CKR_PIN_INCORRECT"):
        await _configured(config, uri)
    monkeypatch.setattr(MemberProcess, "spawn", None)  # nobody is started
    with pytest.raises(PinRefusedError, match="refused this PIN before"):
        await _configured(config, uri)


async def _configured(config: Config, key: str = "") -> None:
    named = parse(key) if key else None
    await configured(config, [P256], key=named, generate=False, members=1, prompted={})


async def test_more_members_than_there_are(config: Config) -> None:
    """Members of the configuration are measured, not invented ones."""
    with pytest.raises(MisconfiguredError, match=r"--members 2: .* has 1"):
        await configured(config, [P256], key=KeyURI(object="x"), generate=False, members=2, prompted={})
