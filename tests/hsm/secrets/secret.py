"""A PIN that must appear nowhere, and all that a log could show of an error."""

from __future__ import annotations

import traceback

SECRET = "q4711-\u00fc\u00df z"


def told(error: BaseException) -> str:
    """All that a log could show of `error`: its message, its causes' and the traceback."""
    return "".join(traceback.format_exception(error))
