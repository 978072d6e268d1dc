"""Both CA keys and their certificates: what is there is kept, what is missing is made after saying so."""

from __future__ import annotations

import time
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs

from hsm.certificates.files import spki_of
from hsm.errors import MemberLostError, MisconfiguredError, RefusedError
from hsm.member.process import MemberProcess
from hsm.schemes import PublicKey
from hsm.uri import KeyURI
from hsm.wire.member import Generate, KeyFound, Opened, Selector
from hsm.wire.worker import Authority
from proxy.commands.init.certificate import prove, self_signed
from proxy.commands.init.files import key_label, write
from proxy.commands.init.login import TIMEOUT_S, logged_in
from proxy.commands.init.pace import fit
from proxy.commands.init.place import Place
from proxy.commands.init.plan import Plan, advice, certified, plan, public_of
from proxy.commands.init.subject import subject
from proxy.commands.init.wanted import Confirm, Say, Wanted
from proxy.commands.options import CA_DAYS
from proxy.commands.pace import Fitting

Keys = dict[Authority, KeyURI]
_CAS: tuple[Authority, ...] = ("trust", "untrust")
"""One of each. A second one, with a key of the other sort, is the operator's to add."""


async def make_keys(wanted: Wanted, directory: Path, place: Place, say: Say, confirm: Confirm) -> tuple[Keys, Fitting]:
    """Both CA keys and certificates. What the keys are called, partition included, and the settings that fit what the
    partition takes to sign. Raises MisconfiguredError, RefusedError, and what a lost HSM raises."""
    uris = {name: wanted.key(name) or KeyURI(object=key_label(name)) for name in _CAS}
    known = {name: public for name in _CAS if (public := certified(directory, name))}
    spkis = {str(name): spki_of(public) for name, public in known.items()}
    looked_for = {str(name): uri for name, uri in uris.items()}
    async with logged_in(place.settings, place.pin, directory, looked_for, spkis) as (process, opened):
        plans = [plan(wanted, directory, name, uris[name], opened) for name in _CAS]
        _refuse_what_has_no_effect(wanted, plans)
        for line in (line for one in plans if not one.complete or one.found.exposure for line in one.lines):
            say(line)
        if wanted.module and not all(one.complete for one in plans) and not confirm("Go on?"):
            raise MisconfiguredError("nothing was made")
        made = {one.name: await _make(wanted, one, known, process, say) for one in plans}
        named = {name: _whole(uri, place.selector, opened) for name, uri in made.items()}
        return named, await fit(process, {one.name: one.certificate for one in plans}, say)


def _refuse_what_has_no_effect(wanted: Wanted, plans: list[Plan]) -> None:
    if all(one.exists for one in plans):
        for option, value in (("--subject", wanted.subject), ("--days", wanted.days)):
            if value is not None:
                raise MisconfiguredError(
                    f"{option} has no effect: both certificates exist in {plans[0].certificate.parent}"
                )
    first, second = plans
    if first.public and second.public and spki_of(first.public) == spki_of(second.public):
        raise MisconfiguredError(
            f"'{first.uri.object or first.uri}' and '{second.uri.object or second.uri}' are one key on {first.where}: "
            "clients would trust servers that did not verify"
        )


async def _make(
    wanted: Wanted, one: Plan, known: dict[Authority, PublicKey], process: MemberProcess, say: Say
) -> KeyURI:
    """The key and the certificate of one CA, what is missing of them; how the key is called."""
    uri, found = one.uri, one.found
    if one.makes:
        found = await _generated(one, process)
        uri = found.uri or uri
        guarded = f"WARNING: {found.exposure}" if found.exposure else "sensitive, never extractable"
        say(f"made the key '{uri.object or uri}' ({one.makes}; {guarded})")
        if found.uri:
            say(f"the HSM calls it so, and not '{key_label(one.name)}'; hsmitm.toml does, too")
    if one.exists:
        await prove(process, one, known[one.name])
        return uri
    public = public_of(found)
    if public is None:
        raise MisconfiguredError(
            f"the partition keeps no public half of the new key '{uri.object or uri}'; put a public key object with "
            "its label there with the HSM's own tool, then run init again"
        )
    called = subject(one.name, public, wanted.subject)
    made = await self_signed(process, one, called, public, wanted.days or CA_DAYS)
    write(one.certificate, made.public_bytes(Encoding.PEM).decode(), 0o644)
    say(f"wrote {one.certificate}, '{made.subject.rfc4514_string()}', signed by its own key on the partition")
    return uri


async def _generated(one: Plan, process: MemberProcess) -> KeyFound:
    assert one.makes is not None
    label = key_label(one.name)
    try:
        found = await process.call(Generate(label, one.makes), time.monotonic() + TIMEOUT_S)
    except RefusedError as error:
        raise MisconfiguredError(f"{error}. Use another --key-type, or {advice(one.name)}") from error
    except MemberLostError as error:
        text = f"{error}; the key '{label}' may have been made: run init again, which uses it"
        raise MemberLostError(text, error.code, error.calls_for) from error
    assert isinstance(found, KeyFound)
    if found.problem:
        raise MisconfiguredError(
            f"the new key '{label}' on {one.where} cannot be used: {found.problem}; {advice(one.name)}"
        )
    return found


def _whole(uri: KeyURI, selector: Selector, opened: Opened) -> KeyURI:
    """The URI with its partition, as that was named: a label may be empty, or another partition's, too."""
    if uri.token or uri.serial:
        return uri
    label, serial = opened.partition.label, opened.partition.serial.strip()
    if serial and (selector.label is None or not label):
        return structs.replace(uri, serial=serial)
    return structs.replace(uri, token=label or None)
