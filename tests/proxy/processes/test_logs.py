"""Log lines as an operator sees them on standard error."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from proxy.config.operation import LogLevel
from proxy.processes import logs
from tests.waiting import wait_until

_LOGGERS = ("hsmitm", "mitmproxy.proxy.server", "")
_START = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) +worker-1 ")


class _Log:
    """What reached standard error."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def lines(self) -> list[str]:
        """Whole lines, each checked to begin with time, level and process, which are taken off."""
        logs.flush()
        return self.written()

    def written(self) -> list[str]:
        """Those that are there already."""
        text = self._captured.readouterr().err
        assert not text or text.endswith("\n")
        lines = text.split("\n")[:-1]
        for line in lines:
            assert _START.match(line), f"a line without a beginning: {line!r}"
        return [_START.sub("", line) for line in lines]


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str]) -> Iterator[_Log]:
    """Standard error. Loggers are afterwards as they were."""
    kept = [(one, list(one.handlers), one.level, one.propagate) for one in map(logging.getLogger, _LOGGERS)]
    yield _Log(capfd)
    logs.flush()  # a thread writes, to a descriptor that is another's afterwards
    for one, handlers, level, propagate in kept:
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate


def _fail() -> None:
    """An error with a cause and a message of two lines, as libraries raise them."""
    try:
        int("x")
    except ValueError as error:
        raise OSError(5, "reading failed\nbadly") from error


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_record_is_one_line(log: _Log, level: LogLevel) -> None:
    """A message with newlines, whoever sent them, cannot begin a line of its own."""
    logs.configure(level, "worker-1")
    logging.getLogger("hsmitm.forward").warning("no certificate for %s", "evil\n2026-01-01T00:00:00.000 ERROR lost")
    logging.getLogger("mitmproxy.proxy").warning("two\nlines\n")
    first, second = log.lines()
    assert first == "no certificate for evil | 2026-01-01T00:00:00.000 ERROR lost"
    assert second.startswith("two | lines")


def test_nothing_sent_moves_the_terminal(log: _Log) -> None:
    """A text from the network with carriage returns or escape sequences does not hide or forge lines for a reader."""
    logs.configure("info", "worker-1")
    controls = ["\r", "\x1b[2K", "\x0b", "\x0c", "\x85", "\u2028", "\x00", "\x7f"]
    for control in controls:
        logging.getLogger("hsmitm.forward").warning("no certificate for %s", f"a{control}b")
    assert [line for line in log.lines() if not line.isprintable()] == []


def test_an_error_is_told_without_its_traceback(log: _Log) -> None:
    """At info a failure has its class and its text in the line, and no traceback."""
    logs.configure("info", "worker-1")
    try:
        _fail()
    except OSError:
        logging.getLogger("hsmitm").exception("cannot read %s", "the file")
    assert log.lines() == ["cannot read the file (OSError: [Errno 5] reading failed | badly)"]


def test_an_error_at_debug_has_its_traceback_in_the_line(log: _Log) -> None:
    """At debug the whole traceback is there, cause first, in one line still."""
    logs.configure("debug", "worker-1")
    try:
        _fail()
    except OSError:
        logging.getLogger("hsmitm").exception("cannot read")
    (line,) = log.lines()
    assert line.startswith("cannot read | Traceback (most recent call last): | ")
    assert "ValueError: invalid literal for int()" in line
    assert line.endswith("OSError: [Errno 5] reading failed | badly")


def test_an_error_that_another_handler_formatted_is_told_alike(log: _Log) -> None:
    """A traceback that somebody else's handler left in the record does not come in through that."""
    logs.configure("info", "worker-1")
    ours = logging.getLogger("hsmitm")
    other = logging.StreamHandler(io.StringIO())
    ours.handlers.insert(0, other)
    try:
        _fail()
    except OSError:
        ours.exception("cannot read")
    assert "Traceback" in other.stream.getvalue()
    assert log.lines() == ["cannot read (OSError: [Errno 5] reading failed | badly)"]


def test_an_exception_line_without_an_exception_is_a_plain_line(log: _Log) -> None:
    """A library that logs with exc_info where nothing was raised gets its message printed, and nothing made up."""
    logs.configure("info", "worker-1")
    logging.getLogger("mitmproxy").error("odd", exc_info=True)
    assert log.lines() == ["odd"]


def test_a_percent_sign_in_an_errors_text_is_harmless(log: _Log) -> None:
    """An error's text is never taken for a format."""
    logs.configure("info", "worker-1")
    try:
        raise ValueError("100 %s %d of %(it)s")
    except ValueError:
        logging.getLogger("hsmitm").warning("failed %d %%", 3, exc_info=True)
    assert log.lines() == ["failed 3 % (ValueError: 100 %s %d of %(it)s)"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_kept(log: _Log, level: LogLevel, expected: list[str]) -> None:
    """Our own lines are shown from the level on that the operator chose."""
    logs.configure(level, "worker-1")
    ours = logging.getLogger("hsmitm.worker")
    for name in ("debug", "info", "warning", "error"):
        getattr(ours, name)(name)
    assert log.lines() == expected


@pytest.mark.parametrize(
    ("level", "expected"), [("info", ["warning", "error"]), ("debug", ["info", "warning", "error"])]
)
def test_mitmproxys_own_lines_are_shown_from_warnings_on(log: _Log, level: LogLevel, expected: list[str]) -> None:
    """mitmproxy says several things of each connection at info: only its warnings are for an operator."""
    logs.configure(level, "worker-1")
    theirs = logging.getLogger("mitmproxy.addons.block")
    for name in ("info", "warning", "error"):
        getattr(theirs, name)(name)
    assert log.lines() == expected


@pytest.mark.parametrize(("level", "expected"), [("info", ["error"]), ("debug", ["warning", "error"])])
def test_its_connection_handler_is_shown_from_errors_on(log: _Log, level: LogLevel, expected: list[str]) -> None:
    """What mitmproxy warns of a connection our addons say better: one outcome is one line."""
    logs.configure(level, "worker-1")
    theirs = logging.getLogger("mitmproxy.proxy.server")
    theirs.warning("warning")
    theirs.error("error")
    assert log.lines() == expected


def test_a_line_of_ours_is_printed_once_and_reaches_no_root_handler(log: _Log) -> None:
    """mitmproxy runs a hook for every record at the root: ours stay away from there, and are not doubled."""
    logs.configure("info", "worker-1")
    reached: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = reached.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    logging.getLogger("hsmitm.forward").warning("once")
    assert log.lines() == ["once"]
    assert reached == []


def test_a_line_is_bounded(log: _Log) -> None:
    """A name of 300 kB from the network is a line of 4 KiB, which says how much is missing; whatever the name is of."""
    logs.configure("info", "worker-1")
    for letter in ("a", "\x00", "\u00e9", "\U0001f512", "\ud800"):
        logging.getLogger("hsmitm.forward").warning("no certificate for %s", letter * 300_000)
    for line in log.lines():
        found = re.fullmatch(r"no certificate for .*\.\.\. \((\d+) more bytes\)", line)
        assert found, line[-80:]
        assert 3900 < len(line.encode()) + len("2026-01-01T00:00:00.000 WARNING worker-1 ") < 4096
        assert int(found[1]) > 290_000


def test_a_flood_is_a_few_lines(log: _Log) -> None:
    """Ten thousand refused connections are ten lines and a count, which the process tells at its end at the latest."""
    logs.configure("info", "worker-1")
    for number in range(10_000):
        logging.getLogger("hsmitm.connections").warning("cannot connect to %s", number)
    lines = log.lines()
    assert lines[:10] == [f"cannot connect to {number}" for number in range(10)]
    told = re.fullmatch(r"and (\d+) more like it in \d\.\d s, first: cannot connect to 10", lines[10])
    assert told
    assert int(told[1]) == 9990 or len(lines) > 11  # a slow machine needs more than a second for them


def test_a_flood_is_told_a_second_later(log: _Log) -> None:
    """The count comes by itself, also where nothing else is logged."""
    logs.configure("info", "worker-1")
    for _ in range(15):
        logging.getLogger("hsmitm.connections").warning("refused")
    said: list[str] = []

    def told() -> bool:
        said.extend(log.written())
        return any("and 5 more like it" in line for line in said)

    wait_until(told, "it is told")


def test_at_debug_everything_is_told(log: _Log) -> None:
    """Who asks for debug gets every line."""
    logs.configure("debug", "worker-1")
    for _ in range(500):
        logging.getLogger("hsmitm.connections").warning("refused")
    assert log.lines() == ["refused"] * 500


def test_what_is_missing_is_counted(log: _Log) -> None:
    """A monitor sees how many lines the log lacks."""
    logs.configure("info", "worker-1")
    registry = CollectorRegistry()
    logs.count_in(registry)
    for _ in range(15):
        logging.getLogger("hsmitm.connections").warning("refused")
    assert registry.get_sample_value("hsmitm_log_lines_held_back_total") == 5
    assert registry.get_sample_value("hsmitm_log_lines_dropped_total") == 0


def test_a_line_that_cannot_be_made(log: _Log) -> None:
    """A library's line with too few arguments is told as such; nothing is raised, and nothing else is written."""
    logs.configure("info", "worker-1")
    template, arguments = "%s and %s", ("one",)
    logging.getLogger("hsmitm.forward").warning(template, *arguments)
    assert log.lines() == ["a line of hsmitm.forward cannot be written: TypeError"]


def test_without_standard_error(log: _Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started with standard error closed, hsmitm serves without a log."""
    monkeypatch.setattr("sys.stderr", None)
    handler = logs.configure("info", "worker-1")
    logging.getLogger("hsmitm.worker").warning("to nobody")
    logs.flush()
    assert handler.writer.dropped == 0
    os.close(handler.writer._descriptor)
