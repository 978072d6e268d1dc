"""Name look-ups of real processes: a name server of the test's own, which never answers for some names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SILENT = """
import json, select, socket, struct, subprocess, sys, threading, time
from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System

work = Path(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
(work / "resolv.conf").write_text("nameserver 127.0.0.1\\n")
subprocess.run(["mount", "--bind", str(work / "resolv.conf"), "/etc/resolv.conf"], check=True)
asked = []

def serve(server):
    while True:
        question, client = server.recvfrom(512)
        name, place = [], 12
        while question[place]:
            name.append(question[place + 1 : place + 1 + question[place]].decode())
            place += 1 + question[place]
        asked.append(name[0])
        if name[0].startswith("silent"):
            continue
        kind = question[place + 1 : place + 3]
        answers = [b"\\xc0\\x0c" + kind + b"\\0\\1" + struct.pack("!LH", 60, 4) + bytes([127, 0, 0, 1])]
        answers = answers if kind == b"\\0\\1" else []
        head = question[:2] + b"\\x81\\x80\\0\\1" + struct.pack("!H", len(answers)) + bytes(4)
        server.sendto(head + question[12 : place + 5] + b"".join(answers), client)

def begin(source, host, port):
    at, _, number = proxy.rpartition(":")
    client = socket.create_connection((at, int(number)), 40, (source, 0))
    client.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
    return client

def visit(host, port):
    began = time.monotonic()
    with begin("127.0.0.2", host, port) as client:
        return client.recv(65536).decode().split()[1], time.monotonic() - began

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
threading.Thread(target=serve, args=(server,), daemon=True).start()
ca = OriginCA()
with OriginThread(ca) as origin, System.make(work / "s", upstream_ca=ca.pem, workers="1") as system:
    proxy = system.proxy
    alone = [visit(f"alone{i}.example", origin.port) for i in range(20)]
    flood = [begin("127.0.0.1", f"silent{i}.example", 443) for i in range(120)]
    while sum(one.startswith("silent") for one in asked) < 4:
        time.sleep(0.01)
    beside = [visit(f"beside{i}.example", origin.port) for i in range(20)]
    waiting = len(flood) - len(select.select(flood, [], [], 0)[0])
    said = [one.recv(65536).decode() for one in flood]
    refused = "refused (too-many-lookups)" in system.log
print(json.dumps({
    "alone": [one[0] for one in alone], "beside": [one[0] for one in beside],
    "added_s": max(one[1] for one in beside) - max(one[1] for one in alone),
    "waiting": waiting, "flood": sorted({one.split()[1] for one in said}),
    "sentence": any("was not looked up" in one for one in said), "refused": refused,
}))
"""


@pytest.mark.alone
@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_names_that_are_never_answered_hold_up_nobody_else(softhsm_module: str, tmp_path: Path) -> None:
    """While one client has 120 connections to names whose servers say nothing, another's new names are reached as
    before, within 250 ms; the first one hears 502 with the reason, and the operator its class."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-c", _SILENT, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["alone"] + found["beside"]) == {"200"}, found
    assert found["waiting"] >= 16, "the look-ups that nobody answers were over before the others began"
    assert found["added_s"] < 0.25, found
    assert found["flood"] == ["502"]
    assert found["sentence"]
    assert found["refused"]
