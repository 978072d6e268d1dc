"""`hsmitm init`: a partition with two CA keys, their certificates, and a commented hsmitm.toml. Never overwrites.

Keys are made by a member process, as they will be used by one: no other process loads a module. hsmitm.toml is written
last, so that it is there only when all that it names is there too.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from string import Template
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from msgspec import Struct

from hsm.certificates.ca import approve_ca
from hsm.certificates.leaf import SERIAL_BITS
from hsm.errors import MisconfiguredError, RefusedError
from hsm.member.process import MemberProcess
from hsm.schemes import PublicKey, certificate_schemes
from hsm.secrets import pin
from hsm.uri import KeyURI
from hsm.vendor_variables import read_by_vendors
from hsm.wire.member import Generate, Initialise, KeyFound, KeyType, Open, Opened, Selector, Sign, Signature
from proxy.commands.options import CONFIG, KEY_TYPE, variables
from proxy.config.section import Address

Say = Callable[[str], object]
Confirm = Callable[[str], bool]

CA_DAYS = 3650
_CAS = ("trust", "untrust")
"""One of each. A second one, with a key of the other sort, is the operator's to add."""
_TIMEOUT_S = 120.0
"""For each call; some HSMs take a minute to make an RSA key."""
_SOFTHSM = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/*/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


class Wanted(Struct, frozen=True, kw_only=True):
    """The command line of `init`. `on_terminal` is whether somebody, and no log, reads what is said."""

    directory: Path
    module: str | None
    token: str | None
    environment: tuple[str, ...] = ()
    pin_file: Path | None = None
    so_pin_file: Path | None = None
    on_terminal: bool = False
    key_type: str = KEY_TYPE
    listen: str
    status_listen: str
    upstream_ca: str | None = None
    scripts: tuple[str, ...] = ()
    allow_destinations: tuple[str, ...] = ()


class _Place(Struct, frozen=True, kw_only=True):
    """Where the keys go: a partition that exists now."""

    module: str
    label: str
    environment: dict[str, str]
    pin: str
    pin_source: str
    member: str


async def initialise(wanted: Wanted, say: Say, confirm: Confirm) -> Path:
    """Do it. Returns the path of hsmitm.toml; raises MisconfiguredError with nothing overwritten."""
    directory = wanted.directory.absolute()
    toml = directory / CONFIG
    if toml.exists():
        raise MisconfiguredError(f"{toml} exists; it is not overwritten. Choose another --dir, or edit it")
    if wanted.key_type not in get_args(KeyType):
        raise MisconfiguredError(f"--key-type {wanted.key_type}: use one of {', '.join(get_args(KeyType))}")
    for name, text in (("--listen", wanted.listen), ("--status-listen", wanted.status_listen)):
        try:
            if text or name == "--listen":
                Address.parse(text)
        except ValueError as error:
            raise MisconfiguredError(f"{name}: {error}") from None
    if (wanted.module is None) != (wanted.token is None):
        raise MisconfiguredError("--module and --token go together: the vendor's library, and the partition's label")
    if wanted.module is not None and wanted.so_pin_file is not None:
        raise MisconfiguredError("--so-pin-file is for a new SoftHSM partition; the one that you name has its own")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = _given(wanted) if wanted.module else await _new_softhsm(wanted, directory, say)
    await _make_keys(wanted, directory, place, say, confirm)
    _write(toml, _text(wanted, place), 0o644)
    say(f"wrote {toml}")
    say(f"Clients must trust {directory / _certificate('trust')}. Next: hsmitm run --config {toml}")
    return toml


def _given(wanted: Wanted) -> _Place:
    """A partition that exists, on a module that the operator named."""
    assert wanted.module is not None
    assert wanted.token is not None
    environment = read_by_vendors(os.environ) | variables(wanted.environment)
    if wanted.pin_file is not None:
        path = wanted.pin_file.absolute()
        secret, source = pin.from_file(path), f"{{ file = {_toml(str(path))} }}"
    elif sys.stdin.isatty():
        secret, source = getpass.getpass(f"PIN of partition '{wanted.token}': "), "{ prompt = true }"
    else:
        raise MisconfiguredError("give the partition's PIN with --pin-file FILE (mode 0600), or run on a terminal")
    module = str(Path(wanted.module).absolute()) if "/" in wanted.module else wanted.module
    return _Place(
        module=module,
        label=wanted.token,
        environment=environment,
        pin=secret,
        pin_source=source,
        member="hsm1",
    )


async def _new_softhsm(wanted: Wanted, directory: Path, say: Say) -> _Place:
    """A SoftHSM token store under `directory`, with one token and random PINs in files of mode 0600."""
    module = next((str(path) for pattern in _SOFTHSM for path in Path("/").glob(pattern[1:])), None)
    if module is None:
        raise MisconfiguredError(
            "SoftHSM is not installed: run 'apt-get install softhsm2', or name your HSM's library with --module"
        )
    store, configuration, pin_path = directory / "softhsm", directory / "softhsm2.conf", directory / "pin"
    for path in (store, configuration, pin_path):
        if path.exists():
            raise MisconfiguredError(
                f"{path} exists without a hsmitm.toml; it is not overwritten. Choose another --dir"
            )
    user, officer = secrets.token_hex(12), secrets.token_hex(12)
    if wanted.so_pin_file is not None:
        _write(wanted.so_pin_file.absolute(), f"{officer}\n", 0o600)
    store.mkdir(mode=0o700)
    _write(configuration, f"directories.tokendir = {store}\nobjectstore.backend = file\nlog.level = ERROR\n", 0o644)
    _write(pin_path, f"{user}\n", 0o600)
    environment = {"SOFTHSM2_CONF": str(configuration)}
    process = await MemberProcess.spawn(environment)
    try:
        await process.call(Initialise(module, "hsmitm", officer, user), time.monotonic() + _TIMEOUT_S)
    finally:
        await process.end()
    say(f"made a SoftHSM partition 'hsmitm' in {store}; its PIN is in {pin_path} (mode 0600)")
    say(_of_officer(wanted, officer))
    return _Place(
        module=module,
        label="hsmitm",
        environment=environment,
        pin=user,
        pin_source='{ file = "pin" }',
        member="softhsm1",
    )


def _of_officer(wanted: Wanted, officer: str) -> str:
    """Where the security officer's PIN is now. hsmitm never needs it, and whoever has it can replace the user's PIN."""
    if wanted.so_pin_file is not None:
        return (
            f"the security officer's PIN is in {wanted.so_pin_file}; hsmitm never needs it: keep it elsewhere, offline"
        )
    if wanted.on_terminal:
        return f"the security officer's PIN is {officer}; it is kept nowhere and hsmitm never needs it: write it down"
    return "the security officer's PIN is kept nowhere: hsmitm never needs it (--so-pin-file FILE keeps it)"


async def _make_keys(wanted: Wanted, directory: Path, place: _Place, say: Say, confirm: Confirm) -> None:
    """Both CA keys and certificates: what is there is kept, what is missing is made after saying so."""
    uris = {name: KeyURI(object=_label(name)) for name in _CAS}
    process = await MemberProcess.spawn(place.environment)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        opening = Open(place.module, Selector(place.label), place.pin, 1, uris, writable=True)
        opened = await process.call(opening, deadline)
        assert isinstance(opened, Opened)
        where = f"partition {opened.partition}"
        plan = [_plan(wanted, directory, name, opened.keys[name], where) for name in uris]
        for line in filter(None, plan):
            say(line)
        if wanted.module and any(plan) and not confirm("Go on?"):
            raise MisconfiguredError("nothing was made")
        for name in uris:
            await _make_key(wanted, directory, name, opened.keys[name], process, say)
    finally:
        await process.end()


def _label(name: str) -> str:
    return f"hsmitm-forward-{name}"


def _certificate(name: str) -> str:
    return f"forward-{name}.pem"


def _plan(wanted: Wanted, directory: Path, name: str, found: KeyFound, where: str) -> str:
    """What will be made for one CA, in a sentence; empty where all is there. Raises MisconfiguredError."""
    certificate = directory / _certificate(name)
    if found.missing:
        if certificate.exists():
            raise MisconfiguredError(f"{certificate} exists, but its key '{_label(name)}' is not on {where}")
        return f"will make the key '{_label(name)}' ({wanted.key_type}) on {where}, and {certificate}"
    if found.problem:
        raise MisconfiguredError(f"the key '{_label(name)}' on {where} cannot be used: {found.problem}")
    return "" if certificate.exists() else f"will use the key '{_label(name)}' on {where}, and make {certificate}"


async def _make_key(
    wanted: Wanted, directory: Path, name: str, found: KeyFound, process: MemberProcess, say: Say
) -> None:
    certificate = directory / _certificate(name)
    if found.missing:
        request = Generate(_label(name), wanted.key_type)  # type: ignore[arg-type]  # checked at the start
        reply = await process.call(request, time.monotonic() + _TIMEOUT_S)
        assert isinstance(reply, KeyFound)
        found = reply
        guarded = "sensitive, never extractable" if found.guarded else "WARNING: the HSM says it could be extracted"
        say(f"made the key '{_label(name)}' ({wanted.key_type}; {guarded})")
    if certificate.exists():
        return
    public = load_der_public_key(found.spki)
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise MisconfiguredError(f"the key '{_label(name)}' keeps no public half on the partition")
    identifier = x509.SubjectKeyIdentifier.from_public_key(public).digest.hex()[:8]
    subject = f"hsmitm forward {name} CA {identifier}"
    if name == "untrust":
        subject += ": server not verified"
    made = x509.load_der_x509_certificate(await _self_signed(process, name, subject[:64], public))
    _write(certificate, made.public_bytes(Encoding.PEM).decode(), 0o644)
    say(f"wrote {certificate}, signed by its own key on the partition")


async def _self_signed(process: MemberProcess, name: str, subject: str, public: PublicKey) -> bytes:
    """A CA certificate (DER) of the key, in the first scheme that its partition makes. Raises RefusedError,
    MisconfiguredError for a key that cannot be a CA's."""
    refused: RefusedError | None = None
    try:
        schemes = certificate_schemes(public)
    except ValueError as error:
        raise MisconfiguredError(f"the key '{_label(name)}' is {error}") from error
    for scheme in schemes:
        now, serial = dt.datetime.now(dt.UTC), secrets.randbits(SERIAL_BITS)
        approved = approve_ca(subject, public, CA_DAYS, now, serial, scheme)
        request = Sign(name, scheme.name, approved.digest, approved.tbs)
        try:
            signed = await process.call(request, time.monotonic() + _TIMEOUT_S)
        except RefusedError as error:
            refused = refused or error
            continue
        assert isinstance(signed, Signature)
        if not scheme.verifies(public, approved.digest, signed.signature):
            raise RefusedError(f"the partition's signature by '{_label(name)}' does not verify")
        return approved.certificate(signed.signature, public)
    assert refused is not None
    raise refused


def _write(path: Path, text: str, mode: int) -> None:
    """A new file of this mode. Raises MisconfiguredError where one is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise MisconfiguredError(f"{path} exists; it is not overwritten") from None
    except OSError as error:
        raise MisconfiguredError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _toml(value: object) -> str:
    """A string or a list of strings as TOML: JSON's, but for surrogate pairs and DEL, which TOML does not allow."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _text(wanted: Wanted, place: _Place) -> str:
    template = Template(resources.files("proxy.config").joinpath("hsmitm.toml.template").read_text())
    pairs = ", ".join(f"{_toml(name)} = {_toml(value)}" for name, value in place.environment.items())
    label = str(KeyURI(token=place.label)).removesuffix(";type=private")
    return template.substitute(
        member=_toml(place.member),
        module=_toml(place.module),
        token=_toml(place.label),
        pin=place.pin_source,
        environment=f"environment = {{ {pairs} }}" if pairs else '# environment = { NAME = "VALUE" }',
        trust=_toml(f"{label};object={_label('trust')};type=private"),
        trust_certificate=_toml(_certificate("trust")),
        untrust_certificate=_toml(_certificate("untrust")),
        untrust=_toml(f"{label};object={_label('untrust')};type=private"),
        listen=_toml(wanted.listen),
        status_listen=_toml(wanted.status_listen),
        upstream_ca=f"upstream_ca = {_toml(wanted.upstream_ca)}"
        if wanted.upstream_ca
        else '# upstream_ca = "company-roots.pem"',
        scripts=_toml(list(wanted.scripts)),
        allow_destinations=_toml(list(wanted.allow_destinations)),
    )
