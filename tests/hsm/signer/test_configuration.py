"""The number that tells workers of a reload, over all lives of the signer."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.signer.configuration import ConfigurationNumber


def test_it_moves_with_each_reload_and_is_kept(tmp_path: Path) -> None:
    """A signer that is started again goes on with the number of its last reload."""
    first = ConfigurationNumber(tmp_path / "state")
    assert first.current == 0
    first.move()
    first.move()
    assert first.current == ConfigurationNumber(tmp_path / "state").current == 2


def test_reading_it_writes_nothing(tmp_path: Path) -> None:
    """Until there is a reload there is no file: a signer that only looks leaves no trace."""
    assert ConfigurationNumber(tmp_path / "state").current == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoilt", ["", "many", "\N{SNOWMAN}"])
def test_a_spoilt_file(tmp_path: Path, spoilt: str, caplog: pytest.LogCaptureFixture) -> None:
    """A file that says no number keeps nobody from starting: it is named in the log, and written anew."""
    (tmp_path / "configuration-number").write_text(spoilt)
    number = ConfigurationNumber(tmp_path)
    assert number.current == 0
    assert "configuration-number, which counts reloads, cannot be read" in caplog.text
    number.move()
    assert ConfigurationNumber(tmp_path).current == 1


def test_a_disk_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the number cannot be written the reload counts all the same, and the log says so."""
    (tmp_path / "state").write_text("a file where the directory should be")
    number = ConfigurationNumber(tmp_path / "state")
    number.move()
    assert number.current == 1
    assert "configuration-number, which counts reloads, cannot be written" in caplog.text
