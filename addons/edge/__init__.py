"""The network's side of the data path: what stands between sockets and mitmproxy's layers.

    settings          how much of anything one client or server may ask for: types, defaults and bounds; no I/O
    refusal           what is refused at the edge, by its class: one counter, one hook, one line that is bounded
    bucket            so many at once, and so many a second from there on
    backpressure      who waits for whom between one client's connection and those to its servers
    nghttp2           the library for HTTP/2: its declarations, loading it, its errors as text
    http2_events      what an HTTP/2 peer has done, in types of our own
    http2_body        a message's body on its way out
    http2_reception   what nghttp2 calls back with, gathered as events and counted against the bounds
    http2_session     one end of an HTTP/2 connection, without I/O: bytes and messages in, events and bytes out
    http2_paced       the turns of a connection's layer: what goes out when, and what is given back when
    http2_connection  what the layers of both ends have in common between mitmproxy's HttpEvents and a session
    http2_server      the layer towards a client
    http2_client      the layer towards a server
    seam              the one place where classes of ours stand in for mitmproxy's, and for which of its versions

Whatever comes from the network has a bound in bytes, time and number here before it is read on. User scripts see what
they always saw: mitmproxy's flows, hooks and layers go on behind this.
"""
