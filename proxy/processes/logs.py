"""Log lines on standard error: time, level, process, then one outcome. Standard library logging, for mitmproxy uses it.

mitmproxy's own lines are shown from warnings on: at info it has several for each connection, and formatting them costs
more than the connection's policy decisions. Its connection handler is shown from errors on: what it warns of does not
name the server, and our addons say it better.
"""

from __future__ import annotations

import logging
import sys

from proxy.config.operation import LogLevel


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
        line = super().format(record).replace("\n", " | ")
        return line if line.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


def configure(level: LogLevel, process: str) -> None:
    """Log to standard error from `level` on; `process` is the name in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(process, tracebacks=level == "debug"))
    ours = logging.getLogger("hsmitm")
    ours.handlers[:] = [handler]
    ours.setLevel(level.upper())
    ours.propagate = False  # mitmproxy triggers an addon hook for every record that reaches the root
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    if level != "debug":
        logging.getLogger("mitmproxy.proxy.server").setLevel(logging.ERROR)
