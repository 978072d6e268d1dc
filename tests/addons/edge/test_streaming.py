"""Which messages go on as they come."""

from __future__ import annotations

import pytest
from mitmproxy.http import Headers, Response

from addons.edge.streaming import DEFAULT, EVERYTHING, NOTHING, Streamed

PAGE = {"content-type": "text/html; charset=utf-8", "content-length": "5"}


def _message(fields: dict[str, str]) -> Response:
    made = Response.make(200, b"")
    made.headers = Headers(**{name.replace("-", "_"): value for name, value in fields.items()})
    return made


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        (PAGE, False),
        ({"content-type": "text/html"}, True),
        ({"content-type": "Text/Event-Stream;charset=utf-8", "content-length": "5"}, True),
        ({"content-type": "application/grpc", "content-length": "5"}, True),
        ({"content-type": "application/grpc-web+proto", "content-length": "5"}, True),
        ({"content-type": "application/json", "content-length": "5"}, False),
        ({"content-length": "5"}, False),
    ],
)
def test_what_has_no_end_in_sight_is_streamed_by_default(fields: dict[str, str], taken: bool) -> None:
    """Event streams, gRPC, and what has no length; a page with a length is whole for scripts."""
    assert Streamed.parse(DEFAULT).takes(_message(fields)) is taken


def test_all_and_nothing() -> None:
    """Nobody looks at messages, or somebody wants all of them whole."""
    assert EVERYTHING.takes(_message(PAGE))
    assert Streamed.parse(["*"]).takes(_message(PAGE))
    assert not NOTHING.takes(_message({}))
    assert Streamed.parse([]) == NOTHING


@pytest.mark.parametrize("entry", ["html", "text/*html", "a/b, c/d", "", "text/html; charset=utf-8"])
def test_what_is_no_content_type_is_refused(entry: str) -> None:
    """With a sentence that shows what is one."""
    with pytest.raises(ValueError, match='write "text/event-stream"'):
        Streamed.parse([entry])
