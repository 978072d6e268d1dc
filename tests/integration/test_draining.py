"""A worker that is stopped waits for what is in progress, and for nothing that has ended."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import System
from tests.integration.test_forward import tunnel

_NAME = "drain.test"
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\nHost: not here\r\n\r\n"
)


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            with suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                data = b""
                while data := data + tls.recv(65536):
                    if data.endswith(b"0\r\nSum: 1\r\n\r\n"):
                        tls.sendall(_ANSWER)
                        break
                tls.recv(1)


def test_trailers_leave_no_flow_behind(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> None:
    """Trailers in both directions pass, and a stop does not wait `grace_s` for their exchange."""
    made = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", grace_s="30.0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_serve, args=(listener, origin_ca.context((_NAME,), ())), daemon=True)
        server.start()
        made.start()
        try:
            context = ssl.create_default_context(cafile=str(made.ca))
            port = listener.getsockname()[1]
            with (
                tunnel(made, _NAME, port) as plain,
                context.wrap_socket(plain, server_hostname=_NAME) as tls,
            ):
                tls.sendall(
                    f"POST / HTTP/1.1\r\nHost: {_NAME}:{port}\r\nTE: trailers\r\nConnection: TE\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nSum: 1\r\n\r\n".encode()
                )
                got = b""
                while b"Grpc-Status" not in got:
                    got += tls.recv(65536)
                assert b"not here" not in got
                begun = time.monotonic()
                made.stop()
                assert time.monotonic() - begun < 10
            assert "did not end in time" not in made.log
        finally:
            made.stop()
