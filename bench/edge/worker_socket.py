"""What a worker that is taken over says to the signer, from a process of the worker's user."""

from __future__ import annotations

import itertools
import os
import random
import socket
import time
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.edge.scene import Scene
from bench.edge.target import MADE_UP
from hsm.wire.frames import Call, encode
from hsm.wire.worker import Authorities, Family, Mint, Report

_LATER_S = 30.0
_numbers = itertools.count()


def as_worker(attack: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """`attack` by a process that has given up what a worker has not."""

    def run(scene: Scene) -> None:
        uid, gid, *groups = scene.target.worker_ids
        if uid != os.geteuid():
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        attack(scene)

    return run


def _dial(scene: Scene) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(2)
    try:
        made.connect(scene.target.worker_socket)
    except OSError:
        made.close()
        raise
    return made


def _call(body: object) -> bytes:
    return encode(Call(next(_numbers), time.monotonic() + _LATER_S, body))


def _spki() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def unread(scene: Scene) -> None:
    """Questions whose answers are never read."""

    def one() -> None:
        with _dial(scene) as connection:
            try:
                scene.flood(connection, (b"".join(_call(Authorities()) for _ in range(50)) for _ in itertools.count()))
            except TimeoutError:
                scene.saw("not read any more")
                scene.wait()

    scene.again(one, threads=4)


def half_frames(scene: Scene) -> None:
    """Frames of which all but the last byte comes, on ever more connections."""
    kept: list[socket.socket] = []
    part = ((1 << 20) - 8).to_bytes(4) + bytes((1 << 20) - 16)

    def one() -> None:
        if len(kept) < 1000:
            kept.append(_dial(scene))
            scene.flood(kept[-1], [part])

    scene.again(one, threads=4, pause_s=0)
    scene.saw(f"{len(kept)} half frames")


def connections(scene: Scene) -> None:
    """1,500 connections of one process."""
    kept: list[socket.socket] = []

    def one() -> None:
        if len(kept) < 1500:
            kept.append(_dial(scene))

    scene.again(one, threads=4, pause_s=0)
    scene.saw(f"{len(kept)} taken")


def reports(scene: Scene) -> None:
    """Reports of 60,000 listeners."""
    _reports(scene, lambda: Report(os.getpid(), 200, 0.0, [str(number) for number in range(60_000)], 0, []))


def made_up(scene: Scene) -> None:
    """Reports with metrics that nobody knows, ever new ones, and with counters of a thousand million."""

    def report() -> Report:
        first = random.randrange(1 << 30)  # noqa: S311
        names = [f"{MADE_UP}_{first + number}" for number in range(3000)]
        families = [Family(name, "counter", "", [(f"{name}_total", {"a": "b"}, 1.0)]) for name in names]
        families.append(Family("hsmitm_mints", "counter", "", [("hsmitm_mints_total", {}, -1e9)]))
        return Report(os.getpid(), 201, 0.0, [], 0, families)

    _reports(scene, report)


def _reports(scene: Scene, report: Callable[[], Report]) -> None:
    def one() -> None:
        with _dial(scene) as connection:
            while not scene.over:
                scene.flood(connection, [_call(report())])
                scene.saw("answered" if connection.recv(65536) else "closed")

    scene.again(one, threads=2)


def mints(scene: Scene) -> None:
    """New names, asked for as fast as the socket takes them, from four connections."""
    _mints(scene, lambda: [f"m{random.randrange(1 << 40)}.edge.test"])  # noqa: S311


def refused_mints(scene: Scene) -> None:
    """Names that are none, 300 kB long: each is refused, and written down."""
    _mints(scene, lambda: ["*" + "a" * 300_000])


def _mints(scene: Scene, names: Callable[[], list[str]]) -> None:
    spki = _spki()

    def one() -> None:
        with _dial(scene) as connection:
            connection.setblocking(False)
            asked = b""
            answered = 0
            while not scene.over:
                asked = asked or b"".join(_call(Mint("trust", names(), spki)) for _ in range(3))
                try:
                    sent = connection.send(asked)
                    scene.seen.sent_mb += sent / 1e6
                    asked = asked[sent:]
                except BlockingIOError:
                    time.sleep(0.001)
                try:
                    if not connection.recv(1 << 20):
                        scene.saw("closed")
                        return
                    answered += 1
                except BlockingIOError:
                    pass
            scene.saw("answered" if answered else "no answer")

    scene.again(one, threads=4)


def garbage(scene: Scene) -> None:
    """Frames that are none, each on a connection of its own."""

    def one() -> None:
        with _dial(scene) as connection:
            body = msgspec.msgpack.encode({"t": "call", "id": 1, "deadline": 1.0, "body": ["x" * 100_000]})
            scene.flood(connection, [len(body).to_bytes(4) + body])
            scene.saw("answered" if connection.recv(100) else "closed")

    scene.again(one, threads=4, pause_s=0)
