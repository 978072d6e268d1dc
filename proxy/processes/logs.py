"""Log lines on standard error: time, level, process, then one outcome. Standard library logging, for mitmproxy uses it.

mitmproxy's own lines are shown from warnings on: at info it has several for each connection, and formatting them costs
more than the connection's policy decisions. Its connection handler is shown from errors on: what it warns of does not
name the server, and our addons say it better.

Nobody waits for whoever reads the log (`log_writer`), and no client fills it: a line has MAX_LINE bytes at most, and
there are so many of a kind a second (`log_rates`; at debug all of them). What is left out is told and counted.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from proxy.config.operation import LogLevel
from proxy.processes.log_rates import Rates
from proxy.processes.log_writer import MAX_LINE, Writer

_FLUSH_S = 1.0
"""At the end of a process: what nobody has read by then is lost."""


class _OneLine(logging.Formatter):
    """No traceback reaches a reader of the log unless it asks for debug; what it is about does."""

    def __init__(self, process: str, *, tracebacks: bool) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03d %(levelname)-7s {process} %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._tracebacks = tracebacks

    def formatException(self, ei: object) -> str:  # logging's own name  # noqa: N802
        if self._tracebacks:
            return super().formatException(ei)  # type: ignore[arg-type]
        return ""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and not self._tracebacks:
            kind, error, _ = record.exc_info
            record = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})
            if kind is not None:
                record.msg, record.args = f"{record.getMessage()} ({kind.__name__}: {error})", ()
        whole = super().format(record)
        line = whole[:MAX_LINE].replace("\n", " | ")  # what is cut anyway need not be looked through
        line = line if line.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
        return line + whole[MAX_LINE:]


def encoded(line: str) -> bytes:
    """`line` with its end, in MAX_LINE bytes: what is longer is cut, and says by how much."""
    whole = line.encode(errors="backslashreplace")
    if len(whole) < MAX_LINE:
        return whole + b"\n"
    kept = whole[: MAX_LINE - 40].decode(errors="ignore").encode()
    return kept + b"... (%d more bytes)\n" % (len(whole) - len(kept))


class LogHandler(logging.Handler):
    """Lines to the writer's thread, unless there are too many of a kind."""

    def __init__(self, descriptor: int, formatter: logging.Formatter, *, limited: bool) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.rates = Rates()
        self.writer = Writer(descriptor, self._tell_held, self._lost)
        self._limited = limited

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits, and never raises."""
        if self._limited and not self.rates.passes(record, time.monotonic()):
            self.writer.start_ticking()
        else:
            self.writer.put(self._line(record))

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            return encoded(self.format(record))
        except Exception as error:  # noqa: BLE001  # whatever an argument's __str__ raises
            return self.line(logging.WARNING, f"a line of {record.name} cannot be written: {type(error).__name__}")

    def line(self, level: int, text: str) -> bytes:
        """A line of our own making."""
        made = {"msg": text, "levelno": level, "levelname": logging.getLevelName(level)}
        return encoded(self.format(logging.makeLogRecord(made)))

    def _tell_held(self, *, at_end: bool = False) -> bool:
        """What was held back a while ago is told; the writer's thread asks. Whether there is more to tell, later."""
        self.acquire()
        try:
            for held in list(self.rates.due(time.monotonic(), all_of_it=at_end)):
                text = f"and {held.count} more like it in {held.period_s:.1f} s, first: {held.example}"
                self.writer.put(self.line(held.level, text))
            return self.rates.waiting
        finally:
            self.release()

    def _lost(self, count: int) -> bytes:
        return self.line(logging.WARNING, f"{count} lines of this log were dropped: whoever reads it does not keep up")

    def flush(self) -> None:
        """Everything is told and written, or _FLUSH_S are over. The standard library calls it at the process's end."""
        self._tell_held(at_end=True)
        self.writer.flush(_FLUSH_S)


class _Counters(Collector):
    """What is missing from this process's log."""

    def __init__(self, handler: LogHandler) -> None:
        self._handler = handler

    def collect(self) -> Iterator[Metric]:
        """Both of them, as they are now."""
        dropped, held = self._handler.writer.dropped, self._handler.rates.held
        yield CounterMetricFamily("hsmitm_log_lines_dropped", "Log lines that nobody read in time", value=dropped)
        yield CounterMetricFamily("hsmitm_log_lines_held_back", "Log lines of a kind that were too many", value=held)


def configure(level: LogLevel, process: str) -> LogHandler:
    """Log to standard error from `level` on; `process` is the name in each line. What does it."""
    formatter = _OneLine(process, tracebacks=level == "debug")
    nowhere = sys.stderr is None  # started with descriptor 2 closed
    descriptor = os.open(os.devnull, os.O_WRONLY) if nowhere else sys.stderr.fileno()
    handler = LogHandler(descriptor, formatter, limited=level != "debug")
    ours = logging.getLogger("hsmitm")
    ours.handlers[:] = [handler]
    ours.setLevel(level.upper())
    ours.propagate = False  # mitmproxy triggers an addon hook for every record that reaches the root
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    if level != "debug":
        logging.getLogger("mitmproxy.proxy.server").setLevel(logging.ERROR)
    return handler


def _handlers() -> list[LogHandler]:
    return [one for one in logging.getLogger("hsmitm").handlers if isinstance(one, LogHandler)]


def count_in(registry: CollectorRegistry) -> None:
    """Show in `registry` what is missing from the log."""
    for one in _handlers():
        registry.register(_Counters(one))


def flush() -> None:
    """Before something else is written to standard error."""
    for one in _handlers():
        one.flush()
