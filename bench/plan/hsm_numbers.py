"""Where a plan has the HSM's numbers from: results of `hsmitm bench sign` and `hsmitm bench mint`, as files or made
now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from bench.plan.capacity import HsmNumbers
from bench.report.report import Progress, Report
from hsm.errors import MisconfiguredError

if TYPE_CHECKING:
    from bench.sign.target import MakeTarget

_SESSIONS, _FAR_SESSIONS = (1, 2, 4, 8), (1, 4, 8, 16, 32)
"""The second of an HSM on a network, or one made to look so: while an answer is on its way, others can be."""
_MINT_SESSIONS = 8
_SIGN_S, _MINT_S = 0.5, 2.0
"""Of each turn: enough for a plan, not for a comparison."""
_LATENCIES = 10
"""A turn of `bench.sign.sign` is so many latencies at least: of each session the last signature, which ends too late,
is not counted, and that is one of so many."""


class _Result(Struct):
    """What is needed of a result that `--json` wrote."""

    name: str
    figures: dict[str, float]
    configuration: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)


class Measured(Struct, frozen=True):
    """The numbers that were measured just now, what went wrong meanwhile, and what to doubt."""

    hsm: HsmNumbers
    errors: list[str]
    notes: list[str]


def from_sign(path: Path, key_type: str) -> HsmNumbers:
    """Of a result of `hsmitm bench sign --json`. Raises MisconfiguredError, naming what is not there."""
    return _of_sign(_read(path, "sign", "--sign"), key_type, f"--sign {path}")


def signer_limit(path: Path) -> float:
    """Mints per second that one signer can make, whatever the HSM, of a result of `hsmitm bench mint --json`.

    Raises MisconfiguredError as `from_sign`.
    """
    return _of_mint(_read(path, "mint", "--mint"), f"--mint {path}")


async def measured(
    key_type: str, seed: int, make_target: MakeTarget, progress: Progress, *, own_hsm: bool, latency_ms: float = 0
) -> Measured:
    """Of short runs: of `bench.sign.sign` on the HSM that `make_target` makes, of `bench.mint.mint` on one that is
    thrown away, for what a mint costs the signer is the same with every HSM. `own_hsm` says that the first is not
    thrown away; `latency_ms` is what each C_Sign of one that is takes longer."""
    # Not needed to plan with numbers that are there, and they load everything that there is.
    from bench.mint import mint  # noqa: PLC0415
    from bench.sign import sign  # noqa: PLC0415
    from bench.sign.points import Point  # noqa: PLC0415

    swept = _FAR_SESSIONS if own_hsm or latency_ms else _SESSIONS
    points = [Point(latency_ms, 1, sessions) for sessions in swept]
    seconds = max(_SIGN_S, _LATENCIES * latency_ms / 1000)
    signed = await sign.sign(
        sign.Plan(points=points, seconds=seconds, rounds=1, seed=seed, rates=[0]), make_target, progress
    )
    minting = mint.Plan(
        seconds=_MINT_S, latencies_ms=[0], key_type=key_type, sessions=_MINT_SESSIONS,
        concurrency=2 * _MINT_SESSIONS, entries=100, names=4, seed=seed,
    )  # fmt: skip
    minted = await mint.mint(minting, progress)
    source = f"{key_type}, measured just now" + (f", {latency_ms:g} ms away" if latency_ms else "")
    hsm = _of_sign(_result(signed), key_type, source)
    limit = _of_mint(_result(minted), source)
    doubt = f"{hsm.sessions} sessions are the most that were measured: 'hsmitm bench sign' with more may find more"
    return Measured(
        msgspec.structs.replace(hsm, signer_per_s=limit),
        [*signed.errors, *minted.errors],
        [doubt] * (hsm.sessions >= swept[-1]),
    )


def _result(report: Report) -> _Result:
    return msgspec.convert(msgspec.to_builtins(report), _Result)


def _of_sign(result: _Result, key_type: str, source: str) -> HsmNumbers:
    """What the module itself does with as many sessions as the knee has."""
    prefix = key_type.replace("-", "")
    how = f"measure it: hsmitm bench sign --json FILE, with a key of type {key_type} and several --sessions"
    per_s, knee = (_figure(result, f"{prefix}.{name}", source, how) for name in ("raw_per_s", "knee_sessions"))
    points = result.configuration.get("points") or [{"latency_ms": 0, "members": 1}]
    latency_ms, members = min((one["latency_ms"], one["members"]) for one in points)  # bench.sign.Plan.main
    # The figure is of eight sessions or about that; an HSM that is far away may have its knee elsewhere.
    point = {"latency_ms": latency_ms, "members": members, "sessions": knee}
    turns = [
        one
        for one in result.detail.get("turns", [])
        if (one["point"], one["kind"], one["depth"], one["rate"]) == (point, key_type, "raw", 0)
    ]
    if turns:
        per_s = sum(one["taken"]["signed"] for one in turns) / sum(one["seconds"] for one in turns)
    return HsmNumbers(per_s=per_s / members, sessions=round(knee), source=source)


def _of_mint(result: _Result, source: str) -> float:
    """By the signer's CPU time for each mint, on the one core that its event loop can use."""
    cpu_ms = _figure(result, "signer_cpu_ms", source, "measure it: hsmitm bench mint --json FILE")
    if cpu_ms <= 0:
        raise MisconfiguredError(f"{source}: signer_cpu_ms is {cpu_ms:g}; measure for longer")
    return 1000 / cpu_ms


def _read(path: Path, name: str, option: str) -> _Result:
    try:
        result = msgspec.json.decode(path.read_bytes(), type=_Result)
    except OSError as error:
        raise MisconfiguredError(f"{option} {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MisconfiguredError(
            f"{option} {path} is no result of a measurement ({error}); make one with: hsmitm bench {name} --json {path}"
        ) from None
    if result.name != name:
        raise MisconfiguredError(
            f"{option} {path}: a result of 'hsmitm bench {result.name}'; one of 'hsmitm bench {name}' is needed"
        )
    return result


def _figure(result: _Result, name: str, source: str, how: str) -> float:
    if name not in result.figures:
        present = ", ".join(sorted(result.figures)[:12]) or "none"
        raise MisconfiguredError(f"{source}: there is no figure {name} (there are {present}); {how}")
    return result.figures[name]
