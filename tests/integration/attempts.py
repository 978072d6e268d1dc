"""A script of mitmproxy's kind that tries to break out of the worker it runs in, and answers with what it got.

Loaded by a real worker (`test_cage.py`); what to try it on stands in TARGETS, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mitmproxy import http

from hsm import reading
from hsm.wire import frames
from hsm.wire.admin import Status
from hsm.wire.frames import Call

_PTRACE_SEIZE = 0x4206
_NEWUSER_NEWNS = 0x10000000 | 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def _called(result: int) -> str:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return "done"


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        return repr(file.read(40))


def _open(path: str) -> str:
    with Path(path).open("rb"):
        return "opened"


def _list(path: str) -> str:
    return repr(sorted(Path(path).iterdir()))


def _write(path: str) -> str:
    with Path(path).open("ab") as file:
        file.write(b"")
    return "opened for writing"


def _create(path: str) -> str:
    Path(path).write_text("x")
    return "created"


def _memory_of(pid: int) -> str:
    vector = (ctypes.c_size_t * 2)(0, 8)
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    _libc.process_vm_readv.restype = ctypes.c_ssize_t
    result = _libc.process_vm_readv(pid, local, 1, vector, 1, 0)
    if result < 0 and ctypes.get_errno() == 14:  # EFAULT: we were let in, and nothing is at that address
        return "let in"
    return _called(result)


def _admin(path: str) -> str:
    """Ask for the status as the command line does, as far as a worker can."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(path)
        line.sendall(frames.encode(Call(1, time.monotonic() + 5, Status())))
        answer = line.recv(4096)
    if not answer or b"RefusedError" in answer:
        raise PermissionError(answer[-200:])
    return repr(answer[:40])


def _mounted() -> str:
    _called(_libc.unshare(_NEWUSER_NEWNS))
    return _called(_libc.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None))


def _in_child(act: Callable[[], str]) -> str:
    """In a process of its own: it changes what it is."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, act().encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 100)
    os.close(reading)
    os.waitpid(pid, 0)
    if not said:
        raise PermissionError("refused")
    return said.decode()


def _by_program(path: str) -> str:
    done = subprocess.run(["cat", path], capture_output=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr)
    return repr(done.stdout[:40])


def _by_supervisor(path: str) -> str:
    assert reading._ask is not None
    if (descriptor := reading._ask(Path(path))) is None:
        raise PermissionError("refused")
    return repr(os.read(descriptor, 40))


def _by_link(path: str, place: str) -> str:
    link = Path(place) / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    return _read(str(link))


def _by_hard_link(path: str, place: str) -> str:
    os.link(path, Path(place) / "hard")
    return _read(str(Path(place) / "hard"))


def _become_root() -> str:
    os.setresuid(0, 0, 0)
    Path("/proc/sys/kernel/core_pattern").write_text("core")
    return "root"


def _all(targets: dict[str, Any]) -> dict[str, str]:
    place = targets["place"]
    tries: dict[str, Callable[[], str]] = {
        "mount": lambda: _in_child(_mounted),
        "become root": lambda: _in_child(_become_root),
        "disk": lambda: _read(targets["disk"]),
    }
    for path in targets["secrets"]:
        tries |= {
            f"read {path}": lambda path=path: _read(path),
            f"cat {path}": lambda path=path: _by_program(path),
            f"ask for {path}": lambda path=path: _by_supervisor(path),
            f"link to {path}": lambda path=path: _by_link(path, place),
            f"hard link to {path}": lambda path=path: _by_hard_link(path, place),
        }
    for path in targets["hidden"]:
        tries[f"list {path}"] = lambda path=path: _list(path)
    for path in targets["files"]:
        tries[f"write {path}"] = lambda path=path: _write(path)
    for path in targets["directories"]:
        tries[f"create in {path}"] = lambda path=path: _create(f"{path}/made-by-worker")
    for name, pid in targets["processes"].items():
        tries |= {
            f"memory of {name}": lambda pid=pid: _open(f"/proc/{pid}/mem"),
            f"environment of {name}": lambda pid=pid: _read(f"/proc/{pid}/environ"),
            f"files of {name}": lambda pid=pid: _open(f"/proc/{pid}/fd/2"),
            f"root of {name}": lambda pid=pid: _list(f"/proc/{pid}/cwd/"),
            f"trace {name}": lambda pid=pid: _called(_libc.ptrace(_PTRACE_SEIZE, pid, 0, 0)),
            f"memory of {name}, by call": lambda pid=pid: _memory_of(pid),
            f"signal {name}": lambda pid=pid: str(os.kill(pid, 0)),
        }
    tries["admin socket"] = lambda: _admin(targets["admin"])
    return {name: _outcome(act) for name, act in tries.items()}


def _outcome(act: Callable[[], str]) -> str:
    """What it got; empty where it was refused."""
    try:
        return act()
    except (OSError, subprocess.SubprocessError):
        return ""


def _work(place: str) -> dict[str, str]:
    """What a worker may do, and a script with it."""
    (Path(place) / "note").write_text("x")
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=False)
    return {
        "note": (Path(place) / "note").read_text(),
        "program": done.stdout.decode().strip(),
        "name": socket.gethostbyname("localhost"),
        "sibling": __import__("sibling").WORD,
    }


def request(flow: http.HTTPFlow) -> None:
    """Answer instead of the server."""
    targets = json.loads(Path(os.environ["TARGETS"]).read_text())
    answer = {"uid": os.getuid(), "got": _all(targets), "work": _work(targets["place"])}
    flow.response = http.Response.make(200, json.dumps(answer))
