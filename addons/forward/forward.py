"""Forward inspection: present a leaf minted by the signer, instead of mitmproxy's own certificates.

The order in which a client connection gets its certificate:
1. `tls_clienthello`: note whether the client can verify ECDSA.
2. mitmproxy connects to the server and verifies it; note how that went (`tls_established_server`, `tls_failed_server`).
3. `tls_start_client`: names from SNI, CONNECT host and the server's certificate -> cache -> mint -> handshake with the
   worker's own key. A leaf of the forward-trust CA needs a server whose handshake was completed and that the profile
   trusts (`addons.upstream.judge`); any other, one that was never reached too, gets a leaf of the forward-untrust CA.
   A page says what is wrong with a server that is not used.
4. Where no leaf can be had the client gets a TLS alert. Where the signer's last word makes that likely, a CONNECT for a
   new host asks it first, and gets a 502 page that says why.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable

from mitmproxy import connection, ctx, http, tls
from mitmproxy.addons.tlsconfig import AppData
from mitmproxy.net import tls as net_tls
from mitmproxy.proxy import context
from OpenSSL import SSL

from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.forward.availability import Availability
from addons.forward.cas import CAs
from addons.forward.connects import Connects
from addons.forward.contexts import ecdsa_suites, make_context
from addons.forward.known import Known
from addons.forward.leaf_cache import Leaf, LeafCache, LeafKey, leaf
from addons.forward.leaf_keys import LeafKeys, LeafPrivateKey
from addons.forward.leaf_names import leaf_names, requested_host
from addons.forward.new_names import NewNames
from addons.policy.addon import on_outage_of
from addons.records import classes
from addons.records.connections import facts_of, outermost
from addons.records.facts import Lookup
from addons.records.metrics import Metrics
from addons.tls import client_hello
from addons.tls.pieces import PiecewiseConnection
from addons.tls.protocol import Suites
from addons.tls.refusal import Refusal
from addons.tls.suites import towards_clients
from addons.upstream.judging import show
from hsm.errors import DeadlineError, HsmitmError, TryLaterError
from hsm.wire.client import SignerClient
from hsm.wire.worker import Authority, Mint, Minted

logger = logging.getLogger("hsmitm.forward")

_RESTARTS_PER_MINT = 3
_UNTRUSTED_PART = 10


class Forward:
    """The addon. It serves connections that no other has given their TLS object."""

    def __init__(
        self,
        signer: SignerClient,
        metrics: Metrics,
        availability: Availability,
        *,
        cache_entries: int,
        mint_timeout_s: float,
        new_names: NewNames | None = None,
        suites: Suites = "modern",
    ) -> None:
        """`mint_timeout_s` is how long a client may wait for a new leaf. `cache_entries` are leaves of the trusted CA;
        a tenth of that is for the other's, of which any name of a stranger's server makes one."""
        self._signer = signer
        self._availability = availability
        self._timeout_s = mint_timeout_s
        self._keys = LeafKeys()
        trusted = LeafCache(self._mint, cache_entries, metrics.count_lookup)
        others = LeafCache(self._mint, max(1, cache_entries // _UNTRUSTED_PART), metrics.count_lookup)
        self._caches: dict[Authority, LeafCache] = {
            "trust": trusted, "trust-2": trusted, "untrust": others, "untrust-2": others,
        }  # fmt: skip
        self._new_names = new_names
        self._suites = suites
        self._metrics = metrics
        self._facts: dict[str, Known] = {}
        self._cas = CAs(signer, mint_timeout_s)
        self._connects = Connects(signer, availability, (trusted, others), mint_timeout_s, new_names)
        self._context = functools.lru_cache(maxsize=64)(make_context)

    # what happens before the client's handshake

    def http_connect(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Refuse a CONNECT whose leaf, as is known, could not be minted now: here the reason can still be told."""
        return self._connects.answer(flow)

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Choose the kind of leaf that this client can verify."""
        ours = net_tls.Version[ctx.options.tls_version_client_max]
        speaks_1_3 = ours in (net_tls.Version.UNBOUNDED, net_tls.Version.TLS1_3)
        suites = ecdsa_suites(self._offered(data.context.client))
        ecdsa = client_hello.can_ecdsa(data.client_hello, tls_1_3=speaks_1_3, suites=suites)
        facts = Known("p256" if ecdsa else "rsa-2048", schemes=client_hello.certificate_schemes(data.client_hello))
        self._facts[data.context.client.id] = facts

    def tls_established_server(self, data: tls.TlsData) -> None:
        """A server that goes on without having proved who it is gets a leaf of the untrust CA."""
        if (facts := self._server_facts(data)) is not None:
            facts.established(data)

    def tls_failed_server(self, data: tls.TlsData) -> None:
        """A server that is refused, or was not there at all."""
        if (facts := self._server_facts(data)) is not None:
            facts.failed(data)

    def _server_facts(self, data: tls.TlsData) -> Known | None:
        """The facts of the client whose own server this is, and not a proxy on the way to it. mitmproxy cuts servers
        after it reported their client's end: then there is nothing to note."""
        ours = data.conn is data.context.server and data.ssl_conn is not None
        return self._facts.get(data.context.client.id) if ours else None

    def client_disconnected(self, client: connection.Client) -> None:
        """What was noted of the client goes with it."""
        self._facts.pop(client.id, None)
        if self._new_names is not None:
            self._new_names.gone(client)

    # the handshake

    def tls_start_client(self, data: tls.TlsData) -> Awaitable[None] | None:
        """Give the client's handshake its certificate: at once where its leaf is here."""
        if data.ssl_conn is not None:
            return None  # a user's script was here first
        if not self._cas.known:
            return self._learn_and_start_client(data)
        return self._start(data)

    async def _learn_and_start_client(self, data: tls.TlsData) -> None:
        """Until the signer has told of its CAs there is nothing to choose from."""
        try:
            await self._cas.learn()
        except HsmitmError as error:
            self._note_failure(error)
            _give_nothing(data, "", error)
            return
        if (waiting := self._start(data)) is not None:
            await waiting

    def _start(self, data: tls.TlsData) -> Awaitable[None] | None:
        facts = self._facts.get(data.context.client.id) or Known()
        host = ""
        try:
            host, key = self._wanted(data.context, facts)
            private, cache = self._keys.known(key.kind), self._caches[key.authority]
            self._availability.check(on_outage_of(facts_of(data.context.client)), cached=key in cache)
            if private is None or (found := cache.take(key)) is None:
                return self._start_client(data, host, key)
            data.ssl_conn = self._connection(found, private, key, data)
            found.note(facts_of(data.context.client), key.authority, "hit")
        except (HsmitmError, ValueError) as error:
            _give_nothing(data, host, error)
        return None

    async def _start_client(self, data: tls.TlsData, host: str, key: LeafKey) -> None:
        client, cache, ended = data.context.client, self._caches[key.authority], _nothing
        try:
            if self._new_names is not None and key not in cache and not cache.mints(key):
                if not self._new_names.pay(client, host):
                    self._new_names.refuse(client, host)
                    data.ssl_conn = Refusal()  # type: ignore[assignment]  # the part that a refusal needs
                    return
                ended = await self._new_names.turn(client, self._timeout_s)
            lookup: Lookup = "hit" if key in cache else "joined" if cache.mints(key) else "miss"
            found = await cache.leaf(key, ended)
            self._metrics.set_leaves(self._leaves)
            data.ssl_conn = self._connection(found, await self._keys.key(key.kind), key, data)
            found.note(facts_of(client), key.authority, lookup)
        except (HsmitmError, ValueError) as error:
            _give_nothing(data, host, error)

    def _wanted(self, conn_context: context.Context, facts: Known) -> tuple[str, LeafKey]:
        client, server = conn_context.client, conn_context.server
        host = requested_host(client.sni, server.address[0] if server.address else None, client.sockname[0])
        trusted = facts.verified or outermost(conn_context)
        show(client, server.address, "trust" if trusted else "untrust")
        if not trusted and not facts.answered:
            why = server.error or f"{host} was not reached"
            ctx.master.addons.trigger(EdgeRefusedHook(EdgeRefusal(client, "server-unproven", why)))
        upstream = None
        if facts.faultless and server.tls_established and ctx.options.upstream_cert and server.certificate_list:
            upstream = server.certificate_list[0]
        authority = self._cas.choose("trust" if trusted else "untrust", facts.schemes)
        return host, LeafKey(authority, facts.kind, leaf_names(host, upstream))

    @property
    def _leaves(self) -> int:
        return sum(map(len, set(self._caches.values())))

    async def _mint(self, key: LeafKey) -> Leaf:
        try:
            minted = await self._asked(key)
        except HsmitmError as error:
            self._note_failure(error)
            raise
        self._availability.note_signature()
        return leaf(minted)

    def _note_failure(self, error: HsmitmError) -> None:
        if isinstance(error, TryLaterError | DeadlineError):
            self._availability.note_failure()

    async def _asked(self, key: LeafKey) -> Minted:
        """The signer's answer to a mint, of a CA that we know."""
        request = Mint(key.authority, list(key.names), await self._keys.spki(key.kind))
        for _ in range(_RESTARTS_PER_MINT):
            if not self._cas.current and await self._cas.learn():
                logger.warning("the signer has other CAs than before; forgetting %d leaves", self._leaves)
                for cache in self._caches.values():
                    cache.clear()
            reply = await self._signer.call(request, self._timeout_s)
            if self._cas.current:
                assert isinstance(reply, Minted)
                return reply
            # The signer was restarted meanwhile, and the leaf may be of a CA that we do not know yet.
        raise TryLaterError("the signer keeps being restarted")

    def _offered(self, client: connection.Client) -> tuple[str, ...]:
        """The cipher suites that `client` gets: what a script says, or mitmproxy's option, or the operator."""
        if client.cipher_list or ctx.options.ciphers_client:
            return tuple(client.cipher_list or ctx.options.ciphers_client.split(":"))
        return towards_clients(self._suites, net_tls.Version[ctx.options.tls_version_client_min])

    def _connection(self, found: Leaf, private: LeafPrivateKey, key: LeafKey, data: tls.TlsData) -> SSL.Connection:
        client, server = data.context.client, data.context.server
        chain = self._cas.chain(key.authority)
        if ctx.options.add_upstream_certs_to_client_chain:
            chain = (*chain, *server.certificate_list)
        minimum = net_tls.Version[ctx.options.tls_version_client_min]
        ssl_context = self._context(
            key.authority,
            private,
            net_tls.Method.DTLS_SERVER_METHOD if data.is_dtls else net_tls.Method.TLS_SERVER_METHOD,
            minimum,
            net_tls.Version[ctx.options.tls_version_client_max],
            self._offered(client),
            ctx.options.tls_ecdh_curve_client,
            ctx.options.request_client_cert,
            chain,
        )
        conn = PiecewiseConnection(ssl_context)
        if (facts := self._facts.get(client.id)) is not None:
            facts_of(client).leaf_names = key.names
            conn.doubt = self._cas.doubt(key.authority, facts.schemes)
        # pyOpenSSL would have it encoded and parsed again.
        used = SSL._lib.SSL_use_certificate(conn._ssl, found.certificate._x509)  # type: ignore[attr-defined]  # noqa: SLF001
        SSL._openssl_assert(used == 1)  # noqa: SLF001
        # A proxy that is itself reached over TLS speaks HTTP/1.1 there: mitmproxy has no CONNECT over HTTP/2.
        conn.set_app_data(
            AppData(
                client_alpn=b"http/1.1" if outermost(data.context) else client.alpn,
                server_alpn=server.alpn,
                http2=ctx.options.http2,
            )
        )
        conn.set_accept_state()
        return conn


def _nothing() -> None:
    """Nobody waits for the end of a mint."""


def _give_nothing(data: tls.TlsData, host: str, error: Exception) -> None:
    logger.warning("no certificate for %s: %s", host or data.context.client.sni, error)
    facts_of(data.context.client).fail(classes.of_hsm(error), "client", str(error), "internal_error")
    data.ssl_conn = Refusal()  # type: ignore[assignment]  # the part of a connection that a refusal needs
