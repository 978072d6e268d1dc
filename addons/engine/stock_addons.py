"""Which of mitmproxy's addons a worker needs, and the options that reach them.

The stock list costs more than half of the CPU time of a connection: every addon is walked for each of about 19 hooks.
A worker gets the few that its data path needs; an addon that was left out comes in when one of its options is set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from mitmproxy import addons as stock
from mitmproxy import exceptions, http, master, options, optmanager
from mitmproxy.addons import block as stock_block
from mitmproxy.addons import core, errorcheck, next_layer, proxyserver, script, upstream_auth

from hsm.errors import MisconfiguredError

logger = logging.getLogger("hsmitm.worker")

_NEEDED: tuple[type, ...] = (
    core.Core,
    stock_block.Block,  # refuses clients from public addresses unless block_global is off: no open proxy by mistake
    proxyserver.Proxyserver,
)
_REPLACED = {"TlsConfig", "Onboarding", "DisableH2C"}
"""Ours stands in for the first; the second hands out mitmproxy's CA, which does not exist here; what the third does, in
one spelling and with a warning for each request, the edge's HTTP/1 does."""
_OURS = {
    "mode": "set proxy.mode",
    "listen_host": "set proxy.listen",
    "listen_port": "set proxy.listen",
    "certs": "leaves are signed on the HSM",
    "cert_passphrase": "leaves are signed on the HSM",
    "key_size": "leaf keys are P-256, or RSA-2048 for clients that need it",
    "confdir": "a worker keeps no files",
    "ssl_verify_upstream_trusted_ca": "set proxy.upstream_ca",
    "scripts": "set mitmproxy.scripts",
    "onboarding": "mitm.it is not served",
    "server": "a worker always listens",
}
_UNINSPECTED = (
    'use [policy]: a rule with action = "bypass" passes what it names, and asks for proof. This option lets through '
    "uninspected whatever has a matching SNI, Host header or CONNECT host, which clients forge; "
    "[proxy] not_tls says what becomes of connections that are neither TLS nor HTTP"
)
_SHARED = "it hands what one client has signed in with to all the others"
HOLES = {
    "ignore_hosts": _UNINSPECTED,
    "allow_hosts": _UNINSPECTED,
    "tcp_hosts": _UNINSPECTED,
    "udp_hosts": _UNINSPECTED,
    "proxyauth": "it challenges the visitors of your own sites, too, and takes their Authorization away; let [proxy] "
    "listen where only your clients can reach it, and let the rules of [policy] say by from.networks who may go where",
    "stickyauth": _SHARED,
    "stickycookie": _SHARED,
    "validate_inbound_headers": "without it requests can be smuggled past whoever inspects them",
}
"""Options that make a hole, whoever sets them, with the reason."""


class _Recorder:
    """Stands in for mitmproxy's loader: notes which options an addon adds."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add_option(self, name: str, *_: object, **__: object) -> None:
        self.names.add(name)

    def add_command(self, *_: object) -> None:
        """Commands cost nothing."""


def _options_of(addon: Any) -> set[str]:
    recorder = _Recorder()
    if hasattr(addon, "load"):
        addon.load(recorder)
    return recorder.names


def choose(
    ours: Sequence[Any],
    named: Iterable[str],
    *,
    scripts: bool,
    upstream: bool,
    instead: Sequence[Any] = (),
    decision: Any = None,
) -> list[Any]:
    """The worker's addons in mitmproxy's order, `ours` first among equals: hooks of ours run before its own.

    `named` are the options that the operator set; `scripts` and `upstream` bring the addons for user scripts and for a
    proxy in front of servers. Each of `instead` takes the place of the addon of mitmproxy that it is a kind of,
    `decision` that of its NextLayer.
    """
    wanted = set(named)
    chosen: list[Any] = []
    position = 0
    for addon in stock.default_addons():
        if type(addon).__name__ in _REPLACED:
            continue
        addon = next((one for one in instead if isinstance(one, type(addon))), addon)  # noqa: PLW2901  # in its place
        if isinstance(addon, next_layer.NextLayer):
            position = len(chosen) + 1
            addon = decision or addon  # noqa: PLW2901  # in its place
            needed = True
        elif isinstance(addon, script.ScriptLoader):
            needed = scripts
        elif isinstance(addon, upstream_auth.UpstreamAuth):
            needed = upstream or bool(wanted & _options_of(addon))
        else:
            needed = isinstance(addon, _NEEDED) or bool(wanted & _options_of(addon))
        if needed:
            chosen.append(addon)
    return [*chosen[:position], *ours, *chosen[position:], errorcheck.ErrorCheck()]


class LeanOptions(options.Options):
    """mitmproxy's options, which every layer of every connection reads again: values that cannot be changed in place
    are handed out without a copy, and are attributes once they were read."""

    def __getattr__(self, name: str) -> Any:
        """The option's value."""
        option = self._options.get(name)
        if option is None:
            raise AttributeError(f"mitmproxy has no option {name}")
        value = option._default if option.value is optmanager.unset else option.value  # noqa: SLF001
        if not isinstance(value, str | int | None):
            return option.current()
        self.__dict__[name] = value  # found there from now on, without this function, until it is changed
        return value

    def _notify_subscribers(self, updated: set[str]) -> None:
        """As OptManager, which hears of each change here first: what was remembered is forgotten."""
        for name in updated:
            self.__dict__.pop(name, None)
        super()._notify_subscribers(updated)

    def update_known(self, **kwargs: Any) -> dict[str, Any]:
        """As Options, which all ways to set an option come through. Raises OptionsError for one that makes a hole:
        a script must not open what the configuration cannot."""
        for name, value in kwargs.items():
            if name in HOLES and name in self._options and value != self._options[name].default:
                raise exceptions.OptionsError(f"the option {name} is not available: {HOLES[name]}")
        return super().update_known(**kwargs)  # type: ignore[no-any-return, no-untyped-call]  # mitmproxy's, unannotated


def trust_messages() -> None:
    """Leave out the check of each HTTP message's types, as mitmproxy does under `python -O`: 9 % of a connection.

    It finds faults of scripts. Where there are none, every message is mitmproxy's own or ours.
    """
    http.MessageData.__post_init__ = _unchecked  # type: ignore[method-assign]


def _unchecked(_message: http.MessageData) -> None:
    """What a message is made of is believed."""


def set_options(running: master.Master, wanted: dict[str, Any]) -> None:
    """Set `wanted`, the operator's `[mitmproxy] options`. Raises MisconfiguredError, naming the option."""
    for name, value in wanted.items():
        if why := _OURS.get(name) or HOLES.get(name):
            raise MisconfiguredError(f"mitmproxy.options.{name} is not available: {why}")
        if name not in running.options:
            raise MisconfiguredError(
                f"mitmproxy.options.{name}: mitmproxy has no such option; 'mitmdump --options' lists them"
            )
        choices = running.options._options[name].choices  # noqa: SLF001  # mitmproxy checks them on its command line alone
        if choices and value not in choices:
            raise MisconfiguredError(f"mitmproxy.options.{name}: '{value}' is none of {', '.join(choices)}")
        try:
            running.options.update(**{name: tuple(value) if isinstance(value, list) else value})
        except (TypeError, ValueError, exceptions.OptionsError) as error:
            raise MisconfiguredError(f"mitmproxy.options.{name}: {error}") from error
