"""What a connection's layers send, in as few writes as it can go without anybody waiting for it.

Each write is a system call, a packet, and a peer that wakes up. So what follows each other to one peer goes out
together, and two flights that nobody waits for go with the next, which makes five writes of a new connection's seven:

* our Finished to a server, while the client's handshake is still under way: the request comes behind that;
* the session tickets of TLS 1.3 (RFC 8446 section 4.6.1) to a client whose request is here already: its answer follows.

A client that has not sent its request is given its tickets at once. They carry the acknowledgement of its Finished,
for which a client with Nagle's algorithm (RFC 896) waits, 40 ms long.
"""

from __future__ import annotations

from collections.abc import Iterator

from mitmproxy import connection
from mitmproxy.proxy import commands, events, layers

from addons.records.connections import facts_of

_ONE_WRITE = 65536
"""Bytes that are joined at most: beyond that copying them costs more than another system call."""


class Outgoing:
    """The data that one client's connection and those to its servers have not written yet."""

    def __init__(self, client: connection.Client) -> None:
        self._client = client
        self._facts = facts_of(client)
        self._last: commands.SendData | None = None
        self._finished: commands.SendData | None = None
        self._tickets: commands.SendData | None = None
        self._established: connection.Connection | None = None
        self._asked = False

    def established(self, hook: commands.StartHook) -> None:
        """A hook was handled: where it says that a handshake is complete, the data that come next are its last."""
        self._established = None
        if isinstance(hook, layers.tls.TlsEstablishedServerHook):
            if hook.data.conn.transport_protocol == "tcp":
                self._established = hook.data.conn
        elif isinstance(hook, layers.tls.TlsEstablishedClientHook) and hook.data.conn.tls_version == "TLSv1.3":
            self._established = hook.data.conn

    def _handshaking(self) -> bool:
        client = self._client
        return client.tls and client.timestamp_tls_setup is None and client.state is connection.ConnectionState.OPEN

    def send(self, command: commands.SendData) -> commands.SendData | None:
        """Take `command`; what has to go out before it, if anything has."""
        to_client = command.connection is self._client
        leg = self._facts.client_leg if to_client else self._facts.server_leg
        leg.bytes_out += len(command.data)
        last_of_handshake = self._established is command.connection
        self._established = None
        self._asked = self._asked or not to_client
        if self._last is not None and self._last.connection is command.connection:
            if _fit(self._last, command):
                self._last.data += command.data
                return None
        elif last_of_handshake and self._keep(command):
            return None
        before, self._last = self._last, self._behind(command)
        return before

    def _keep(self, command: commands.SendData) -> bool:
        """Keep the last flight of a handshake back. Not a second one: with TLS in TLS there may be two."""
        if command.connection is not self._client:
            if self._finished is None:
                self._finished = command
                return True
        elif self._tickets is None:
            self._tickets, self._asked = command, False
            return True
        return False

    def _behind(self, command: commands.SendData) -> commands.SendData:
        """`command`, with what was kept for its connection in front."""
        kept = None
        if self._tickets is not None and self._tickets.connection is command.connection:
            kept, self._tickets = self._tickets, None
        elif self._finished is not None and self._finished.connection is command.connection:
            kept, self._finished = self._finished, None
        if kept is not None:
            command.data = kept.data + command.data
        return command

    def before(self, command: commands.Command) -> Iterator[commands.SendData]:
        """What has to go out before `command`, which sends nothing."""
        self._established = None
        if self._last is not None:
            yield self._last
            self._last = None
        if isinstance(command, commands.CloseConnection):
            if self._finished is not None and self._finished.connection is command.connection:
                yield self._finished
                self._finished = None
            elif self._tickets is not None and self._tickets.connection is command.connection:
                yield self._tickets
                self._tickets = None

    def after(self, event: events.Event) -> Iterator[commands.SendData]:
        """What has to go out now that `event` is dealt with."""
        self._established = None
        if self._last is not None:
            yield self._last
            self._last = None
        if self._finished is not None and not self._handshaking():
            yield self._finished
            self._finished = None
        if self._tickets is not None and not self._asked and _from(self._client, event):
            yield self._tickets
            self._tickets = None
        self._asked = False


def _fit(held: commands.SendData, more: commands.SendData) -> bool:
    """Whether `more` goes out with what is held back for the same peer: never two datagrams as one."""
    return len(held.data) + len(more.data) <= _ONE_WRITE and held.connection.transport_protocol == "tcp"


def _from(client: connection.Client, event: events.Event) -> bool:
    return isinstance(event, events.ConnectionEvent) and event.connection is client
