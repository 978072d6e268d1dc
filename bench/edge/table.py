"""All attacks, in the order in which they are run: what goes round inspection first, what eats memory last."""

from __future__ import annotations

from bench.edge import (
    certificate,
    connections,
    heads,
    hello,
    http2,
    logs,
    names,
    sites,
    status,
    websocket,
    worker_socket,
)
from bench.edge.attack import Attack
from bench.edge.scene import Scene
from bench.edge.worker_socket import as_worker

_FLOODS = [
    Attack(f"http2-{name}-{'inbound' if inbound else 'forward'}",
           "B.1" if name in ("continuation", "empty-continuation", "header-bomb") else "B.2",
           http2.from_clients(flood, inbound=inbound))
    for name, flood in http2.FLOODS.items() for inbound in (False, True)
]  # fmt: skip
_SERVERS = [Attack(f"http2-server-{kind}", "B.1, B.2", http2.from_servers(kind)) for kind in http2.SERVERS]

ATTACKS: list[Attack] = [
    Attack("nothing", "-", Scene.wait),
    Attack("hello-split", "A.1", hello.split_connect),
    Attack("hello-after-words", "A.1", hello.words_connect),
    Attack("hello-after-words-passing", "A.1", hello.words_passing, "passing"),
    Attack("hello-split-socks5", "A.1", hello.split_socks, "socks"),
    Attack("hello-after-words-socks5", "A.1", hello.words_socks, "socks"),
    Attack("other-site", "A.2", sites.other_site),
    Attack("forged-client-cert", "A.3", sites.forged),
    Attack("requests-forward", "A.4", heads.requests_forward),
    Attack("requests-inbound", "A.4", heads.requests_inbound),
    Attack("responses", "A.4", heads.responses),
    Attack("unproven-server", "A.5", certificate.unproven),
    Attack("trailers-http1", "B.8", heads.trailers),
    Attack("trailers-http2", "B.8", http2.trailers),
    Attack("status-foreign-host", "D", status.foreign_host),
    Attack("itself", "B.7", connections.itself),
    Attack("destinations", "C", connections.destinations),
    Attack("metadata-service", "C", connections.metadata),
    Attack("silent-names", "B.3", names.silent, "names"),
    Attack("random-names", "B.6", names.random_names, "slow hsm", times=3),
    Attack("idle-forward", "B.4", connections.idle_forward, times=4),
    Attack("idle-inbound", "B.4", connections.idle_inbound, times=4),
    Attack("idle-tunnels", "B.4", connections.idle_tunnels, times=4),
    Attack("idle-finished", "B.4", connections.idle_finished, times=4),
    Attack("slow-heads", "B.4", connections.slow_heads),
    Attack("half-hellos-forward", "B.4", hello.half_forward, times=3),
    Attack("half-hellos-inbound", "B.4", hello.half_inbound),
    Attack("hello-16mb-forward", "B.5", hello.huge_forward),
    Attack("hello-16mb-inbound", "B.5", hello.huge_inbound),
    Attack("hello-one-byte-records-forward", "B.5", hello.tiny_forward),
    Attack("hello-one-byte-records-inbound", "B.5", hello.tiny_inbound),
    Attack("log-burst", "B.9", logs.burst),
    Attack("log-long-lines", "B.9", logs.long_lines),
    Attack("log-stalled", "B.9", logs.burst, "stalled log"),
    *_FLOODS,
    *_SERVERS,
    Attack("http2-window-0", "B.1", http2.window_0, times=2),
    Attack("http2-unread", "B.1", http2.unread, times=2),
    Attack("http2-unread-upload", "B.1", http2.unread_upload, times=2),
    Attack("endless-request", "B.1", heads.endless_request),
    Attack("endless-request-inbound", "B.1", heads.endless_inbound),
    Attack("endless-answer", "B.1", heads.endless_answer),
    Attack("endless-chunks-request", "B.1", heads.endless_chunks_request),
    Attack("endless-chunks-answer", "B.1", heads.endless_chunks_answer),
    Attack("many-fields", "B.1", heads.many_fields),
    Attack("websocket-bomb-client", "B.10", websocket.from_client),
    Attack("websocket-bomb-server", "B.10", websocket.from_server),
    Attack("status-bodies", "D", status.bodies),
    Attack("status-connections", "D", status.connections),
    Attack("status-pipelined", "D", status.pipelined),
    Attack("signer-unread", "E.2", as_worker(worker_socket.unread)),
    Attack("signer-half-frames", "E.2", as_worker(worker_socket.half_frames)),
    Attack("signer-connections", "E.2", as_worker(worker_socket.connections)),
    Attack("signer-reports", "E.2", as_worker(worker_socket.reports)),
    Attack("signer-made-up-metrics", "E.2", as_worker(worker_socket.made_up)),
    Attack("signer-garbage", "E.2", as_worker(worker_socket.garbage)),
    Attack("signer-mints", "E.2", as_worker(worker_socket.mints)),
    Attack("signer-refused-mints", "E.2", as_worker(worker_socket.refused_mints)),
]


def found(name: str) -> Attack:
    """The attack of that name. Raises KeyError."""
    return {one.name: one for one in ATTACKS}[name]
