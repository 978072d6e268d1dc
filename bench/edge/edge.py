"""The edge measurement: every attack of the table against a running hsmitm, beside a client that does nothing wrong.

Each attack has a quiet moment before it, from which the client's own waits, the metrics and the log are known. What
hsmitm has become by an attack is no burden of the next one: where it is larger, or does not answer, it starts anew.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import tempfile
import time
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct, structs, to_builtins

from bench.edge import bystander, name_server, watch
from bench.edge.attack import Attack
from bench.edge.attacker import Attacker
from bench.edge.bystander import NEW_HOSTS, WARM_HOSTS, Bystander
from bench.edge.echo_origin import EchoOrigin
from bench.edge.name_server import NameServer
from bench.edge.system import EdgeSystem, Kind, Setting
from bench.edge.target import MADE_UP, NAME, Target
from bench.edge.verdict import Verdict, Waits, figures
from bench.edge.watch import Lines, Watch
from bench.report.report import Progress, Report
from bench.report.versions import installed
from bench.rig import h2load, nginx
from bench.rig.loopback_names import resolving
from bench.rig.nghttpd import HOST, Nghttpd
from bench.rig.port import free_port
from bench.rig.tls_origin import TlsOrigin
from hsm.errors import MisconfiguredError
from proxy.demo.origin import OriginCA

_QUIET_S, _SETTLED_S, _WARM_UP_S = 2.0, 1.0, 1.5
_DIRTY_MB, _DIRTY_DESCRIPTORS = 48.0, 64
_SLOW_HSM_MS = 100.0
_BODY_BYTES = 100_000_000


class Plan(Struct, frozen=True, kw_only=True):
    """`seconds` for each of the `attacks`; `command` is the hsmitm that is attacked."""

    seconds: float
    attacks: list[Attack]
    command: list[str]
    seed: int


async def edge(plan: Plan, progress: Progress) -> Report:
    """Attack. Raises MisconfiguredError where a program that is needed is missing."""
    if nginx.executable() is None:
        raise MisconfiguredError("the origin is nginx, which is not installed: apt-get install nginx-light")
    if gone := h2load.missing():
        raise MisconfiguredError(f"the HTTP/2 origin is nghttp2's: {gone}")
    began, started = dt.datetime.now(dt.UTC), time.monotonic()
    impossible = name_server.possible()
    attacks = [one for one in plan.attacks if not (impossible and one.needs == "names")]
    left_out = [one.name for one in plan.attacks if one not in attacks]
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmitm-bench-")))
        directory.chmod(0o755)
        progress("starting", 0.0)
        rig = await _Rig.start(plan, directory, stack, names=not impossible)
        verdicts = []
        for number, one in enumerate(attacks):
            progress(one.name, number / len(attacks))
            verdicts.append(await rig.attacked(one))
    return Report(
        name="edge",
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        seed=plan.seed,
        configuration={"seconds": plan.seconds, "attacks": [one.name for one in attacks], "command": plan.command},
        figures=figures(verdicts),
        errors=[f"{one.name}: {one.trouble}" for one in verdicts if one.trouble],
        rows=[one.shown() for one in verdicts],
        notes=[*(one.sentence() for one in verdicts), *(f"{name} was not run: {impossible}" for name in left_out)],
        detail={"versions": installed(), "attacks": to_builtins(verdicts)},
    )


_Quiet = tuple[list[bystander.Wait], tuple[dict[str, float], dict[str, float]]]


class _Rig:
    """What runs: hsmitm, the servers behind it, and the client that does nothing wrong."""

    def __init__(self, stack: AsyncExitStack, setting: Setting, directory: Path, target: Target) -> None:
        self._stack, self._setting, self._directory, self._target = stack, setting, directory, target
        self._watched: EdgeSystem
        self._others: dict[Kind, EdgeSystem] = {}

    @classmethod
    async def start(cls, plan: Plan, directory: Path, stack: AsyncExitStack, *, names: bool) -> _Rig:
        """Start everything; `stack` stops it."""
        ca = OriginCA()
        roots = directory / "origin-ca.pem"
        roots.write_text(ca.pem)
        for name, of in (("server", "*.edge.test"), ("client", "client.example.com")):
            _certify(ca, directory / name, [of, NAME])
        plain = await stack.enter_async_context(EchoOrigin())
        tls = await stack.enter_async_context(
            TlsOrigin(directory / "tls", ca, warm=WARM_HOSTS, cold=NEW_HOSTS, body_bytes=1000)
        )
        http2 = await stack.enter_async_context(Nghttpd(directory / "http2", ca, _BODY_BYTES))
        server = await stack.enter_async_context(NameServer(directory)) if names else None
        setting = Setting(
            command=plan.command, prefix=server.prefix if server else [], ca=ca, roots=roots, client_ca=roots,
            environment={} if server else resolving(directory), upstream=plain.url,
            upstream_h2=f"https://{HOST}:{http2.port}", upstream_own=f"https://{NAME}:{(own := free_port())}",
        )  # fmt: skip
        target = Target(
            seconds=plan.seconds, proxy="", socks="", passing="", inbound="", inbound_h2="", own_port=own, status="",
            worker_socket="", worker_ids=[], ca="", origin_ca=str(roots),
            certificate=str(directory / "server.pem"), key=str(directory / "server.key"),
            client_certificate=str(directory / "client.pem"), client_key=str(directory / "client.key"),
            tls_port=tls.port, h2_port=http2.port,
        )  # fmt: skip
        made = cls(stack, setting, directory, target)
        await made._begin()
        return made

    async def _begin(self) -> None:
        self._watched = await self._system("hsmitm", "regular")
        system = self._watched
        self._target = structs.replace(
            self._target, proxy=system.proxy, inbound=system.inbound, inbound_h2=system.inbound_h2,
            status=system.page, ca=str(system.ca), worker_socket=str(system.worker_socket),
        )  # fmt: skip
        errand = bystander.errand(
            system.proxy, system.inbound, port=self._target.tls_port, ca=str(system.ca), site_ca=self._target.origin_ca
        )
        self._bystander = await self._stack.enter_async_context(Bystander(errand))
        await self._bystander.told(time.monotonic())

    async def _system(self, name: str, kind: Kind) -> EdgeSystem:
        system = EdgeSystem(self._directory / name, self._setting, kind)
        await system.prepare()
        await system.start()
        self._stack.push_async_callback(system.stop)
        return system

    async def attacked(self, attack: Attack) -> Verdict:
        """Run one attack: a quiet moment, the attack, a moment for what was begun to end."""
        system = self._watched
        await self._prepare(attack)
        target = structs.replace(
            self._target, worker_ids=_worker_ids(system.pids), seconds=attack.times * self._target.seconds
        )
        quiet_at = system.log.stat().st_size
        quiet, counters = await self._quiet(system)
        attacker = Attacker(attack, target)
        before, at = time.monotonic(), system.log.stat().st_size

        def give_up() -> None:
            attacker.stop()
            watch.end(system.pids)

        with Watch(system.pids[0], give_up) as watched:
            with system.unread_log() if attack.needs == "stalled log" else nullcontext():
                await attacker.start()
                asking = asyncio.create_task(self._status(attack))
                seen, trouble = await attacker.end()
                over = time.monotonic()
                await asyncio.sleep(_SETTLED_S)
            await self._bystander.told(over)
        page = await system.ask("/metrics")
        after = watch.samples(page)
        if any(name.startswith(MADE_UP) for name in after):
            seen.passed.append("made-up metrics")
        lines = Lines.of(system.log, at)
        verdict = Verdict(
            name=attack.name, point=attack.point, seen=seen, before=Waits.of(quiet),
            during=Waits.of(self._bystander.between(before, over + _SETTLED_S)), growth_mb=watched.growth_mb(),
            descriptors=watched.descriptors(), log_lines_per_s=lines.number / (time.monotonic() - before),
            longest_line=lines.longest,
            metrics=sorted(watch.risen(counters[1], after) - watch.risen(counters[0], counters[1]))[:12],
            lines=lines.without(Lines.of(system.log, quiet_at, at)), page=page is not None,
            status=await asking, ended=watched.exceeded, trouble="" if watched.exceeded else trouble,
        )  # fmt: skip
        if attack.needs == "slow hsm":
            system.module.latency(0)
        if verdict.reasons or verdict.growth_max_mb > _DIRTY_MB or verdict.descriptors > _DIRTY_DESCRIPTORS:
            await self._anew(system)
        self._bystander.forget()
        return verdict

    async def _prepare(self, attack: Attack) -> None:
        """What the rig must do for it: another hsmitm, or a slow HSM."""
        if attack.needs == "socks":
            self._target = structs.replace(self._target, socks=(await self._other("socks5")).proxy)
        if attack.needs == "passing":
            self._target = structs.replace(self._target, passing=(await self._other("passing")).proxy)
        if attack.needs == "slow hsm":
            self._watched.module.latency(_SLOW_HSM_MS)

    async def _other(self, kind: Kind) -> EdgeSystem:
        if kind not in self._others:
            self._others[kind] = await self._system(kind, kind)
        return self._others[kind]

    async def _status(self, attack: Attack) -> bool | None:
        """Whether an operator who asks in the midst of it gets an answer, where the signer is what is attacked."""
        if attack.point not in ("D", "E.2"):
            return None
        await asyncio.sleep(self._target.seconds / 2)
        return await self._watched.tells_status()

    async def _quiet(self, system: EdgeSystem) -> _Quiet:
        """The client's waits in a quiet moment, and the counters before and after it."""
        await self._bystander.told(time.monotonic())
        first = watch.samples(await system.ask("/metrics"))
        begin = time.monotonic()
        await asyncio.sleep(_QUIET_S)
        second = watch.samples(await system.ask("/metrics"))
        return self._bystander.between(begin, time.monotonic()), (first, second)

    async def _anew(self, system: EdgeSystem) -> None:
        await system.kill()
        system.log.write_bytes(b"")
        await system.start()
        await self._bystander.told(time.monotonic())
        await asyncio.sleep(_WARM_UP_S)


def _worker_ids(pids: list[int]) -> list[int]:
    """User, group and further groups of a worker."""
    worker = next(pid for pid in pids if watch.role(pid).startswith("worker"))
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
    uid, gid = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))
    return [uid, gid, *(int(group) for group in fields["Groups"].split())]


def _certify(ca: OriginCA, path: Path, names: list[str]) -> None:
    """A key and a certificate for the names: `path` with .key and .pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = path.with_suffix(".key")
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.with_suffix(".pem").write_bytes(ca.certify(key.public_key(), names).public_bytes(Encoding.PEM))
