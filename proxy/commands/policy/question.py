"""What an operator asks about, as the facts that a worker would have of such a connection."""

from __future__ import annotations

import datetime as dt

from msgspec import Struct

from addons.records.facts import Facts, Mode
from hsm import names
from hsm.errors import MisconfiguredError
from proxy.commands.resolving import is_address
from proxy.config.section import Address
from proxy.config.worker import WorkerConfig

_MODES: dict[str, Mode] = {"transparent": "transparent", "socks5": "socks5", "regular": "explicit"}


class Question(Struct, frozen=True, kw_only=True):
    """A connection. `host` is a name or an address; an `sni` of None is the host's name, "" none at all; `proved` says
    whether an SNI that is not the host is proved, None that it is not known."""

    host: str
    port: int
    at: dt.datetime
    client: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    sni: str | None = None
    listener: str = ""
    ja4: str = ""
    alpn: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    plain: bool = False
    proved: bool | None = None


def facts_of(question: Question, config: WorkerConfig) -> Facts:
    """Its facts, in the mode of the listener that is asked for. Raises MisconfiguredError for what cannot be."""
    host, listener = _host(question.host), _listener(question, config)
    for option, text in (("--from", question.client), *(("--address", one) for one in question.addresses)):
        if text and not is_address(text):
            raise MisconfiguredError(f"{option}: '{text}' is no address; write 10.1.2.3 or 2001:db8::1")
    inbound = listener in {str(Address.parse(one.place)) for one in config.inbound}
    mode = "inbound" if inbound else _MODES.get(config.proxy.mode, "upstream")
    literal, silent = is_address(host), mode in ("transparent", "inbound")
    sni = ("" if literal else host) if question.sni is None else question.sni
    proved = question.proved
    if proved is None and silent and question.sni is None and not question.addresses:
        proved = True  # a client that goes where its name leads
    return Facts(
        id="test",
        began=question.at.timestamp(),
        began_monotonic=0.0,
        at=question.at,
        listener=listener,
        mode=mode,
        client_ip=question.client,
        user=question.user,
        user_groups=question.groups,
        host="" if silent and not question.plain else host,
        port=question.port,
        addresses=question.addresses or ((host,) if literal else None),
        plain=question.plain,
        hello=not question.plain,
        sni="" if question.plain else sni,
        sni_proved=proved,
        ja4=question.ja4,
        alpn=question.alpn,
    )


def _host(text: str) -> str:
    try:
        return names.to_ascii(text)
    except ValueError as error:
        raise MisconfiguredError(f"--host: {error}; write a name or an address, without scheme and port") from None


def _listener(question: Question, config: WorkerConfig) -> str:
    """Where the client comes in: the forward proxy, where nothing is said, as connections name it."""
    places = [config.proxy.listen] if config.cache_entries is not None else []
    places += [one.place for one in config.inbound]
    known = [str(Address.parse(one)) for one in places] or [str(Address.parse(config.proxy.listen))]
    if not question.listener:
        return known[0]
    try:
        found = str(Address.parse(question.listener))
    except ValueError as error:
        raise MisconfiguredError(f"--listener: {error}") from None
    if found not in known:
        raise MisconfiguredError(f"--listener: nobody listens on {found}; there are {', '.join(known)}")
    return found
