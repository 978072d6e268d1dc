"""Who may use the admin socket: a running signer, and connections with and without its token."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from hsm.errors import RefusedError
from hsm.signer.admission import Admission
from hsm.signer.settings import SignerSettings
from hsm.wire import admin, client
from hsm.wire.admin import Admit, Info, Reload, Reset, Status, StatusReport
from hsm.wire.channel import Channel
from hsm.wire.frames import Ready
from hsm.wire.run_directory import ADMIN_SOCKET, ADMIN_TOKEN, RunDirectory
from tests.hsm.signers import serving


async def _asked(socket: Path, *requests: admin.Request) -> admin.Reply:
    """The answer to the last of several requests on one connection."""
    _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: Channel(admin.CODEC), str(socket))
    try:
        for one in requests:
            reply = await channel.call(one, time.monotonic() + 5)
        return reply
    finally:
        channel.close()


def test_the_token_is_for_its_owner_alone_and_new_each_time(tmp_path: Path) -> None:
    """Nobody else reads it, and that of a signer that is gone opens nothing."""
    tokens = []
    for _ in range(2):
        one: Admission[object] = Admission(RunDirectory(tmp_path))
        one.publish()
        path = tmp_path / ADMIN_TOKEN
        assert path.stat().st_mode & 0o777 == 0o600
        tokens.append(path.read_text())
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) == 64
    connection = object()
    with pytest.raises(RefusedError, match="not this signer's"):
        one.admit(connection, Admit(tokens[0]))
    with pytest.raises(RefusedError, match="show the token"):
        one.check(connection, 1)
    one.admit(connection, Admit(tokens[1]))
    one.check(connection, 1)
    one.forget(connection)
    with pytest.raises(RefusedError):
        one.check(connection, 1)
    assert tokens[1] not in repr(Admit(tokens[1]))


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """What somebody put there is replaced, and nothing is written through it."""
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / ADMIN_TOKEN).symlink_to(tmp_path / "elsewhere")
    Admission[object](RunDirectory(tmp_path)).publish()
    assert (tmp_path / "elsewhere").read_text() == "untouched"
    assert not (tmp_path / ADMIN_TOKEN).is_symlink()


@pytest.mark.usefixtures("signer")
async def test_without_the_token_nothing_is_answered(
    settings: SignerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A process of the signer's own user that cannot read the token asks in vain, and it is logged."""
    socket = settings.run.socket(ADMIN_SOCKET)
    requests: list[admin.Request] = [Status(), Info(), Reset(), Reload(), Ready()]
    for request in requests:
        with pytest.raises(RefusedError, match="show the token in"):
            await _asked(socket, request)
    with pytest.raises(RefusedError, match="not this signer's token"):
        await _asked(socket, Admit("0" * 64), Status())
    assert len([one for one in caplog.messages if "has not shown the token" in one]) >= len(requests)
    assert isinstance(await client.ask(socket, admin.CODEC, Status(), 5), StatusReport)


async def test_the_token_goes_with_the_signer(settings: SignerSettings) -> None:
    """A signer of the version before, started after this one, is asked without a token, as it wants to be."""
    async with serving(settings):
        assert (settings.run.path / ADMIN_TOKEN).exists()
    assert not (settings.run.path / ADMIN_TOKEN).exists()
