"""How much of anything one client or one server may ask for, before others would feel it.

Each bound has its own class in log and metric (`refusal`); who goes beyond gets its protocol's own refusal. `[limits]`
of hsmitm.toml has the same names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct


class Bounds(Struct, frozen=True, kw_only=True):
    """The bounds of a worker. Names end in their unit; what has none is a number of things."""

    # What a client begins with.
    hello_bytes: Annotated[int, Meta(ge=4096, le=1_048_576)] = 65536
    hello_records: Annotated[int, Meta(ge=4, le=1024)] = 64
    hello_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    # Connections: 0 is nine tenths of the descriptors that a worker may have.
    connections: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    connections_per_client: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    handshakes_per_client: Annotated[int, Meta(ge=1, le=100_000)] = 64
    first_request_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    idle_s: Annotated[float, Meta(gt=0, le=86400)] = 75.0
    tunnel_idle_s: Annotated[float, Meta(gt=0, le=604_800)] = 600.0
    # HTTP.
    head_bytes: Annotated[int, Meta(ge=4096, le=1_048_576)] = 65536
    fields: Annotated[int, Meta(ge=16, le=10_000)] = 200
    field_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 32768
    chunk_extension_bytes: Annotated[int, Meta(ge=0, le=65536)] = 4096
    trailer_bytes: Annotated[int, Meta(ge=0, le=1_048_576)] = 16384
    # HTTP/2: frames that cost us and not their sender (resets, SETTINGS, PING, PRIORITY, empty DATA).
    http2_streams: Annotated[int, Meta(ge=1, le=10_000)] = 100
    http2_control_per_s: Annotated[int, Meta(ge=1, le=100_000)] = 100
    http2_control_burst: Annotated[int, Meta(ge=1, le=100_000)] = 200
    # Bytes that are kept for a peer that does not read.
    stream_window_bytes: Annotated[int, Meta(ge=65535, le=16_777_216)] = 262_144
    connection_window_bytes: Annotated[int, Meta(ge=65535, le=67_108_864)] = 1_048_576
    websocket_message_bytes: Annotated[int, Meta(ge=1024, le=1_073_741_824)] = 67_108_864
    # Work that others pay for: signatures and name look-ups.
    new_names_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 20.0
    new_names_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
    lookups_per_client: Annotated[int, Meta(ge=1, le=10_000)] = 16
    lookup_s: Annotated[float, Meta(gt=0, le=600)] = 5.0


class NotTls(Struct, frozen=True):
    """What becomes of streams that are neither TLS nor HTTP: closed, but for these destinations. `ports` hold for any
    host, `places` for one host (in lower case) and port."""

    passed: bool = False
    ports: frozenset[int] = frozenset()
    places: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def parse(cls, passed: bool, listed: Iterable[int | str]) -> NotTls:  # a table's word
        """Of ports, and texts "host:port". Raises ValueError."""
        ports, places = set(), set()
        for one in listed:
            host, _, port = str(one).rpartition(":")
            if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or host.endswith(":"):
                raise ValueError(f"'{one}' is neither a port nor host:port; write 25 or \"mail.example:587\"")
            if host:
                places.add((_host(host.removeprefix("[").removesuffix("]")), int(port)))
            else:
                ports.add(int(port))
        return cls(passed, frozenset(ports), frozenset(places))

    def passes(self, address: tuple[str, int] | None) -> bool:
        """Whether a stream to `address`, as the client asked for it, is passed."""
        return self.passed or (
            address is not None and (address[1] in self.ports or (_host(address[0]), address[1]) in self.places)
        )


def _host(name: str) -> str:
    return name.lower().removesuffix(".")
