"""Other ways for a client to reach the proxy: SOCKS5, a proxy in front of servers, and redirected traffic."""

from __future__ import annotations

import os
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.decryption_records import Records, Told
from tests.integration.harness import OriginThread, System
from tests.integration.test_forward import tunnel


def test_socks5(softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path) -> None:
    """A SOCKS5 client gets a leaf for the name that it asks for."""
    with System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", mode='"socks5"') as system:
        address = system.proxy
        reply = system.curl(f"https://socks.test:{origin.port}/", "--proxy", f"socks5h://{address}")
    assert reply.ok, reply.errors
    told = _record(tmp_path, "socks.test", "socks5", origin.port)
    assert told["hsmitm"]["host"] == "socks.test"


def test_behind_an_upstream_proxy(softhsm_module: str, origin: OriginThread, system: System, tmp_path: Path) -> None:
    """With another inspecting proxy in front of the servers its CA is what servers are verified with."""
    outer = System.make(
        tmp_path / "s", upstream_ca=system.ca.read_text(), workers="1", mode=f'"upstream:http://{system.proxy}"'
    )
    with outer:
        reply = outer.curl(f"https://chained.test:{origin.port}/")
    assert reply.ok, reply.errors
    assert "hsmitm forward trust CA" in reply.trace
    told = _record(tmp_path, "chained.test", "upstream", origin.port)
    assert "hsmitm forward trust CA" in told["hsmitm"]["upstream"]["tls"]["server"]["issuer"]


def _record(directory: Path, host: str, mode: str, port: int) -> Told:
    """The only one of a client that wanted this host: an inspected connection, of that mode."""
    told = Records(directory / "s" / "decryption.jsonl").of_host(host)
    assert (told["event"]["action"], told["hsmitm"]["mode"]) == ("decrypted", mode)
    assert (told["destination"]["ip"], told["destination"]["port"]) == ("127.0.0.1", port)
    assert told["tls"]["curve"]
    assert told["tls"]["server"]["subject"]
    assert told["hsmitm"]["upstream"]["tls"]["version"] == "1.3"
    return told


def test_a_parent_proxy_that_never_answers(softhsm_module: str, tmp_path: Path) -> None:
    """The client is told within the time for connecting, the log which proxy it is, and `listen = "*:port"` is where
    clients find us, by IPv4 and IPv6."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        parent = f"127.0.0.1:{silent.getsockname()[1]}"
        outer = System.make(
            tmp_path / "s", workers="1", mode=f'"upstream:http://{parent}"', listen='"*:0"', connect_timeout_s="1.0",
        )  # fmt: skip
        with outer:
            port = outer.proxy.rpartition(":")[2]
            untrust = outer.directory / "forward-untrust.pem"  # there was no certificate that could have been verified
            for host in ("127.0.0.1", "[::1]"):
                began = time.monotonic()
                reply = outer.curl("https://silent.test/", proxy=f"{host}:{port}", trust=untrust)
                assert time.monotonic() - began < 4
                assert reply.status == 504
                assert "silent.test did not answer in time" in reply.body
                assert parent not in reply.body
            outer.until_logged(f"Upstream proxy {parent} has not answered HTTP CONNECT request within 1 s")


def test_a_server_that_speaks_first(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> None:
    """A protocol whose server begins. While nobody has said anything the client, whose handshake is complete, has its
    tickets already; and the server has our Finished, for its greeting comes although the client stays silent."""
    made = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1")
    begin = threading.Event()
    with made as system, socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(10)
        heard = pool.submit(_greet, server, origin_ca.context(("mail.test",), ()), begin)
        context = ssl.create_default_context(cafile=str(system.ca))
        with (
            tunnel(system, "mail.test", server.getsockname()[1]) as connection,
            context.wrap_socket(connection, server_hostname="mail.test") as tls,
        ):
            assert tls.version() == "TLSv1.3"
            tls.setblocking(False)
            assert select.select([tls], [], [], 10)[0], "no tickets came"
            with pytest.raises(ssl.SSLWantReadError):
                tls.recv(100)
            assert tls.session is not None
            assert tls.session.has_ticket
            begin.set()
            tls.settimeout(10)
            assert tls.recv(100) == b"220 ready\r\n"
            tls.sendall(b"QUIT\r\n")
            assert heard.result(10) == b"QUIT\r\n"


def _greet(server: socket.socket, context: ssl.SSLContext, begin: threading.Event) -> bytes:
    with server.accept()[0] as connection:
        connection.settimeout(10)
        with context.wrap_socket(connection, server_side=True) as tls:
            assert begin.wait(20)
            tls.sendall(b"220 ready\r\n")
            return tls.recv(100)


TRANSPARENT = """
import subprocess, sys
from pathlib import Path
import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ca = OriginCA()
with OriginThread(ca) as origin:
    made = System.make(Path(sys.argv[1]) / "s", upstream_ca=ca.pem, workers="1", mode='"transparent"')
    with made as system:
        port = system.proxy.rpartition(":")[2]
        rules = (
            "table ip nat { chain output { type nat hook output priority -100; "
            f"meta skuid 65533 tcp dport {origin.port} redirect to :{port}; }}; }}"
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        Path(sys.argv[2]).write_bytes(system.ca.read_bytes())
        for host in ("redirected.test", "127.0.0.1"):
            done = subprocess.run(
                ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups", "curl", "--silent",
                 "--show-error", "--noproxy", "*", "--max-time", "20", "--cacert", sys.argv[2],
                 "--resolve", f"{host}:{origin.port}:127.0.0.1", f"https://{host}:{origin.port}/"],
                capture_output=True, text=True, timeout=30,
            )
            print(done.returncode, done.stdout.strip(), done.stderr.strip())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_transparent(softhsm_module: str, tmp_path: Path) -> None:
    """Redirected clients, with and without SNI, get leaves for what they wanted. In a network namespace of its own."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as trust:
        Path(trust.name).chmod(0o644)  # the client is another user, and pytest's directories are closed to it
        done = subprocess.run(
            ["unshare", "--net", sys.executable, "-c", TRANSPARENT, str(tmp_path), trust.name],
            capture_output=True, text=True, timeout=90, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "says hello" in line]
    assert [line.split(":")[0] for line in lines] == ["0 redirected.test", "0 127.0.0.1"], done.stdout
    for host in ("redirected.test", "127.0.0.1"):
        told = Records(tmp_path / "s" / "decryption.jsonl").of_host(host)
        assert (told["event"]["action"], told["hsmitm"]["mode"]) == ("decrypted", "transparent")
        assert "host" not in told["hsmitm"]
        assert told["destination"]["ip"] == "127.0.0.1"


INBOUND = """
import subprocess, sys
from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread
from tests.integration.inbound_system import InboundSystem

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ca = OriginCA()
with OriginThread(ca) as origin:
    made = InboundSystem.make_inbound(Path(sys.argv[1]) / "s", upstream_ca=ca.pem, workers="1")
    made.generate(shop="p256")
    port = made.listener(transparent=True)
    made.site("shop.test", keys=["shop"])
    with made as system:
        rules = (
            "table ip nat { chain output { type nat hook output priority -100; "
            f"meta skuid 65533 tcp dport {origin.port} redirect to :{port}; }}; }}"
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        Path(sys.argv[2]).write_bytes(made.root.read_bytes())
        for host in ("shop.test", "other.test"):
            done = subprocess.run(
                ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups", "curl", "--silent",
                 "--show-error", "--noproxy", "*", "--max-time", "20", "--cacert", sys.argv[2],
                 "--resolve", f"{host}:{origin.port}:127.0.0.1", f"https://{host}:{origin.port}/"],
                capture_output=True, text=True, timeout=30,
            )
            print(done.returncode, done.stdout.strip(), done.stderr.strip())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_transparent_inbound(softhsm_module: str, tmp_path: Path) -> None:
    """Inline in front of a server, hsmitm presents its certificate and goes on to where the client wanted to go; a
    name that is no site of ours is refused."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as trust:
        Path(trust.name).chmod(0o644)
        done = subprocess.run(
            ["unshare", "--net", sys.executable, "-c", INBOUND, str(tmp_path), trust.name],
            capture_output=True, text=True, timeout=90, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    served, refused = done.stdout.splitlines()
    assert served.startswith("0 shop.test:"), done.stdout
    assert "says hello over TLS" in served
    assert "unrecognized name" in refused
    records = Records(tmp_path / "s" / "decryption.jsonl")
    told = records.of_host("shop.test")
    assert (told["event"]["action"], told["hsmitm"]["mode"]) == ("decrypted", "inbound")
    assert told["tls"]["server"]["hash"]["sha256"]
    assert told["tls"]["curve"]
    assert told["hsmitm"]["upstream"]["tls"]["version"] == "1.3"
    assert told["hsmitm"]["hsm"]["member"] == "softhsm1"
    error = records.of_host("other.test")["hsmitm"]["error"]
    assert (error["class"], error["alert"]) == ("host-mismatch", "unrecognized_name")


DENIED = """
import socket, subprocess, sys
from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System
from tests.integration.inbound_system import InboundSystem

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

def ask(where):
    # As another user, whose traffic is redirected. Ends at once where the proxy closes.
    code = (
        "import encodings.idna, os, socket, ssl, sys\\nos.setgid(65533)\\nos.setuid(65533)\\n"
        "c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\\n"
        "context = ssl._create_unverified_context()\\n"
        "try:\\n    tls = context.wrap_socket(c, server_hostname='shop.test')\\n"
        "    tls.sendall(b'GET / HTTP/1.0\\\\r\\\\nHost: shop.test\\\\r\\\\n\\\\r\\\\n')\\n"
        "    said = tls.recv(15).decode()\\n"
        "except OSError as error:\\n    said = type(error).__name__\\nprint(said)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, where)], capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr

ca = OriginCA()
canary = socket.create_server(("127.0.0.1", 0))
canary.settimeout(0)
with OriginThread(ca) as origin:
    allowed = f'["127.0.0.1:{origin.port}"]'
    if sys.argv[2] == "inbound":
        made = InboundSystem.make_inbound(
            Path(sys.argv[1]) / "s", upstream_ca=ca.pem, workers="1", allow_destinations=allowed
        )
        made.generate(shop="p256")
        port = made.listener(transparent=True)
        made.site("shop.test", keys=["shop"])
    else:
        made = System.make(
            Path(sys.argv[1]) / "s", upstream_ca=ca.pem, workers="1", mode='"transparent"', allow_destinations=allowed
        )
    with made as system:
        if sys.argv[2] != "inbound":
            port = system.proxy.rpartition(":")[2]
        ports = f"{{ {origin.port}, {canary.getsockname()[1]} }}"
        rules = (
            "table ip nat { chain output { type nat hook output priority -100; "
            f"meta skuid 65533 tcp dport {ports} redirect to :{port}; }}; }}"
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        print("allowed:", ask(("127.0.0.1", origin.port)))
        print("denied:", ask(canary.getsockname()))
        print("ourselves:", ask(("127.0.0.1", port)))
        system.until_logged("refused (blocked-destination)", times=2)
        print("lines:", system.log.count("refused (blocked-destination)"))
        try:
            canary.accept()
            print("reached")
        except BlockingIOError:
            print("untouched")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
@pytest.mark.parametrize("kind", ["forward", "inbound"])
def test_redirected_traffic_for_this_machine_goes_nowhere(softhsm_module: str, tmp_path: Path, kind: str) -> None:
    """Where redirected traffic was going to is the client's word, on the way out and on the way in: what is denied is
    not connected to, nor is the listener itself, which a client can call without any redirection."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", DENIED, str(tmp_path), kind],
        capture_output=True, text=True, timeout=90, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
    assert said["allowed"].startswith("HTTP/1."), done.stdout
    assert not said["denied"].startswith("HTTP/1.") or " 403" in said["denied"], done.stdout
    assert not said["ourselves"].startswith("HTTP/1.") or " 403" in said["ourselves"], done.stdout
    assert int(said["lines"]) >= 2
    assert "untouched" in said
