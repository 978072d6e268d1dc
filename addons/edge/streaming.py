"""Which messages go on as they come, and which are whole first, so that scripts can look at them. Pure.

Server-sent events, gRPC, `kubectl watch` and long polling have no end that anybody could wait for. What has none of
these signs and a length is collected where somebody looks at messages; where nobody does nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable

from mitmproxy import http
from msgspec import Struct

NO_LENGTH = "no-length"
"""The entry for whatever has no Content-Length."""
ENDLESS = ("text/event-stream", "application/grpc*")
DEFAULT = (*ENDLESS, NO_LENGTH)
_WHOLE = {"modify_body", "body_size_limit"}
"""Options of mitmproxy that are about the whole of every message."""
_REQUESTS = {"anticache", "anticomp", "block_list", "map_local", "map_remote", "server_replay"}
"""Those that come into effect when a request is whole, and must before it goes on."""


class Streamed(Struct, frozen=True):
    """Of messages that have content: those that go on as it comes."""

    without_length: bool
    exact: frozenset[str]
    """Content types, in lower case and without parameters."""
    begins: tuple[str, ...]
    """How content types begin; "" stands for every message."""

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Streamed:
        """Of content types, "*" at the end of one standing for the rest of it, and `NO_LENGTH`. Raises ValueError."""
        exact: set[str] = set()
        begins: list[str] = []
        without_length = False
        for one in entries:
            entry = one.strip().lower()
            if entry == NO_LENGTH:
                without_length = True
            elif entry.endswith("*") and "*" not in entry[:-1]:
                begins.append(entry[:-1])
            elif "/" in entry and not set(entry) & set("*;, "):
                exact.add(entry)
            else:
                raise ValueError(
                    f"'{one}' is neither a content type nor '{NO_LENGTH}'; "
                    'write "text/event-stream", "application/grpc*" or "*"'
                )
        return cls(without_length, frozenset(exact), tuple(begins))

    def takes(self, message: http.Message) -> bool:
        """Whether this message, which has content, goes on as it comes."""
        headers = message.headers
        if self.without_length and "content-length" not in headers:
            return True
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind in self.exact or kind.startswith(self.begins)


EVERYTHING = Streamed(without_length=True, exact=frozenset(), begins=("",))
"""Nobody looks at messages."""
NOTHING = Streamed(without_length=False, exact=frozenset(), begins=())
"""Every message is whole before it goes on, as mitmproxy has it."""


def by_default(*, scripts: bool, options: Iterable[str]) -> Streamed:
    """What is streamed where the operator has not said it, with these options of mitmproxy."""
    named = set(options)
    if named & _WHOLE:
        return NOTHING
    if named & _REQUESTS:
        return Streamed.parse(ENDLESS)
    return Streamed.parse(DEFAULT) if scripts or named else EVERYTHING
