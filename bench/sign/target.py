"""The partitions and keys that the signing measurement uses: a throw-away SoftHSM's, or the operator's own.

Both are a configuration that was read: the throw-away one is what `hsmitm init` makes. Each PIN is tried once, by a
member process that looks for the keys; only a PIN that was accepted goes to all the others that log in.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import Struct, structs

from bench import checkout
from bench.sign.kind import KINDS, Kind, kinds_of
from bench.sign.points import KEY_TYPES
from hsm import uri
from hsm.certificates.files import inbound_name
from hsm.certificates.issuer import load_issuer, spkis_of
from hsm.errors import MisconfiguredError, RefusedError
from hsm.member.login import Login
from hsm.member.process import MemberProcess
from hsm.member.settings import MemberSettings
from hsm.schemes import PublicKey
from hsm.secrets import pin
from hsm.secrets.refusals import Refusals
from hsm.uri import KeyURI
from hsm.wire.member import Generate, KeyFound, Open
from proxy.commands.init.init import initialise
from proxy.commands.init.wanted import Wanted
from proxy.config.file import Config, load
from proxy.processes import signer

_TIMEOUT_S = 120.0
"""For each call; some HSMs take a minute to make an RSA key."""


class TargetKey(Struct, frozen=True):
    """A private key that all partitions hold."""

    uri: KeyURI
    spki: bytes

    @property
    def name(self) -> str:
        """What it is called on the wire."""
        return inbound_name(self.spki)

    @property
    def public(self) -> PublicKey:
        """What its signatures are verified with."""
        public = load_der_public_key(self.spki)
        assert isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        return public


class Target(Struct, frozen=True):
    """Partitions with the PINs of their logins, and for each kind of signature the key. `notes` are for the report."""

    members: list[MemberSettings]
    pins: dict[str, str]
    keys: dict[str, TargetKey]
    notes: list[str]

    def __repr__(self) -> str:
        """Without the PINs."""
        return f"Target({[one.name for one in self.members]}, {list(self.keys)})"

    @property
    def modules(self) -> list[str]:
        """The modules' paths, for the report."""
        return sorted({one.module for one in self.members})

    def first(self, members: int) -> Target:
        """The same with the first `members` of the members."""
        kept = self.members[:members]
        return structs.replace(self, members=kept, pins={one.name: self.pins[one.name] for one in kept})

    def opening(self, member: MemberSettings, sessions: int) -> Open:
        """The first call to a process that opens the partition."""
        keys = set(self.keys.values())
        return Open(
            member.module,
            member.selector,
            self.pins[member.name],
            sessions,
            {key.name: key.uri for key in keys},
            spkis={key.name: key.spki for key in keys},
            writable=member.read_write,
            codes=member.codes,
            user_type=member.user_type,
        )

    def delayed(self, latency_ms: float, directory: Path) -> Target:
        """The same where each C_Sign takes that much longer; `directory` gets the modules that do it."""
        if not latency_ms:
            return self
        slow = []
        for one in self.members:
            module = checkout.faulty_module(directory / f"{one.name}-{latency_ms:g}ms")
            module.latency(latency_ms)
            environment = one.environment | module.environment(one.module)
            slow.append(structs.replace(one, module=str(module.path), environment=environment))
        return structs.replace(self, members=slow)


MakeTarget = Callable[[Path], Awaitable[Target]]
"""Given a directory that is thrown away."""


def maker(
    key_types: Sequence[str] | None, members: int, *, config: Path | None, key: str | None, generate: bool
) -> MakeTarget:
    """What makes the target of a command line: throw-away, or with `config` the operator's. PINs that are asked for on
    the terminal are asked for now. Raises MisconfiguredError."""
    unknown = set(key_types or ()) - set(KINDS)
    if unknown:
        raise MisconfiguredError(f"--key-type {', '.join(sorted(unknown))}: use {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS.values() if kind.name in (key_types or KEY_TYPES)]
    if config is None:
        if key or generate:
            raise MisconfiguredError("--key and --generate go with --config: without it keys are made and thrown away")
        return lambda directory: throw_away(directory / "partitions", kinds, members)
    try:
        named = uri.parse(key) if key else None
    except ValueError as error:
        raise MisconfiguredError(f"--key: {error}") from None
    loaded = load(config)
    prompted = signer.prompt_pins(loaded)
    chosen = kinds if key_types or generate else []
    return lambda _: configured(loaded, chosen, key=named, generate=generate, members=members, prompted=prompted)


async def throw_away(directory: Path, kinds: Sequence[Kind], members: int) -> Target:
    """SoftHSM partitions under `directory` with a new key of each type: copies of one, as an HA group's are."""
    wanted = Wanted(
        directory=directory, module=None, token=None, key_type="p256", listen="127.0.0.1:0", status_listen=""
    )
    path = await initialise(wanted, lambda _: None, lambda _: True)
    made = await configured(load(path), kinds, key=None, generate=True, members=1, prompted={})
    (first,) = made.members
    configuration = Path(first.environment["SOFTHSM2_CONF"])
    several, pins = [first], dict(made.pins)
    for number in range(2, members + 1):
        name = f"softhsm{number}"
        store, copied = directory / f"{name}-tokens", directory / f"{name}.conf"
        shutil.copytree(directory / "softhsm", store)
        copied.write_text(configuration.read_text().replace(str(directory / "softhsm"), str(store)))
        several.append(structs.replace(first, name=name, environment={"SOFTHSM2_CONF": str(copied)}))
        pins[name] = pins[first.name]
    return Target(several, pins, made.keys, [])


async def configured(
    config: Config,
    kinds: Sequence[Kind],
    *,
    key: KeyURI | None,
    generate: bool,
    members: int,
    prompted: Mapping[str, str],
) -> Target:
    """The first `members` members of `config`, with `key`, or with keys that are made for the measurement where
    `generate` is given. `prompted` are PINs that a prompt got. Raises MisconfiguredError, and what a login raises."""
    settings = config.members()
    if members > len(settings):
        raise MisconfiguredError(f"--members {members}: {config.path} has {len(settings)}")
    if key is None and not generate:
        raise MisconfiguredError(
            "--config: name the key to sign with by --key URI, or let keys be made that stay there: --generate"
        )
    if key is None and members > 1:
        raise MisconfiguredError("--generate: members of a group hold the same keys; make one and name it by --key URI")
    labels = {kind.key_type: KeyURI(object=f"hsmitm-bench-{kind.key_type}") for kind in kinds}
    uris = {"": key.anywhere()} if key else {str(name): label for name, label in labels.items()}
    pins, found = {}, []
    refusals = Refusals(config.base / config.file.run.state)
    refusals.prepare()
    for one in settings[:members]:
        pins[one.name] = await pin.read(one.pin, one.base, prompted.get(one.name))
        found.append(await _look(one, pins[one.name], refusals, uris, generate=key is None))
    keys = {name: TargetKey(one, _spki(name, one, found)) for name, one in uris.items()}
    _refuse_cas(config, keys.values())
    if key is None:
        served = {kind.name: keys[kind.key_type] for kind in kinds}
        told = ", ".join(str(one) for one in uris.values())
        return Target(settings[:members], pins, served, [f"these keys were made, or found, and left there: {told}"])
    (only,) = keys.values()
    fit = kinds_of(only.public)
    if not fit:
        raise MisconfiguredError(f"--key {key}: RSA of {only.public.key_size} bits; 2048, 3072 and 4096 are measured")
    if kinds and not set(kinds) & set(fit):
        raise MisconfiguredError(f"--key {key}: it can be measured as {', '.join(kind.name for kind in fit)}")
    chosen = [kind for kind in fit if kind in kinds] or fit[:1]
    return Target(settings[:members], pins, {kind.name: only for kind in chosen}, [])


async def _look(
    member: MemberSettings, secret: str, refusals: Refusals, uris: Mapping[str, KeyURI], *, generate: bool
) -> dict[str, KeyFound]:
    """What the partition holds of `uris`; what it lacks is made, if `generate`."""
    if not member.pin.remembered:
        raise MisconfiguredError(f"member {member.name}: {member.pin}: members are measured that log in with a PIN")
    login = Login(member=member.name, source=member.pin, secret=secret, place=member.place, refusals=refusals)
    await login.check()
    process = await MemberProcess.spawn(member.environment)
    try:
        until = time.monotonic() + _TIMEOUT_S
        opening = Open(
            member.module, member.selector, None, 1, dict(uris),
            writable=generate or member.read_write, codes=member.codes, user_type=member.user_type,
        )  # fmt: skip
        opened = await login.opened(process, opening, quick_s=_TIMEOUT_S, longest_s=_TIMEOUT_S)
        found = dict(opened.keys)
        for name in [one for one in found if found[one].missing and generate]:
            label = uris[name].object
            assert label is not None
            made = await process.channel.call(Generate(label, name), until)  # type: ignore[arg-type]  # a key type
            assert isinstance(made, KeyFound)
            found[name] = made
    finally:
        await process.end()
    for one in found.values():
        if one.problem:
            raise MisconfiguredError(f"member {member.name}: {one.problem}")
    return found


def _spki(name: str, uri: KeyURI, found: Sequence[Mapping[str, KeyFound]]) -> bytes:
    spkis = {one[name].spki for one in found}
    if len(spkis) > 1:
        raise MisconfiguredError(f"{uri} is another key at each member; members of a group hold the same keys")
    (spki,) = spkis
    if not spki:
        raise MisconfiguredError(f"{uri} keeps no public half on the partition: its signatures could not be verified")
    return spki


def _refuse_cas(config: Config, keys: Collection[TargetKey]) -> None:
    cas = spkis_of(load_issuer(one.certificate) for one in config.signer().authorities.values())
    for key in keys:
        if key.spki in cas:
            raise RefusedError(f"{key.uri} is the key of a CA; measure with one that nobody trusts")
