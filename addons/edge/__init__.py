"""The network's side of the data path: what stands between sockets and mitmproxy's layers.

    settings          how much of anything one client or server may ask for: types, defaults and bounds; no I/O
    refusal           what is refused at the edge, by its class: one counter, one hook, one bounded line
    seam              the one place where classes of ours stand in for mitmproxy's, and for which versions that is true
    account           on whose account something goes: clients told apart by address; no I/O
    bucket            so many at once, and so many a second from there on
    limits            how many connections and handshakes there may be, in all and of one client; no I/O
    listeners         who is connected, how busy each client is, and whom to let go
    handler           the handler of a connection: its door, its back-pressure, its turns
    hello             a ClientHello, read once and bounded, or found within a stream; no I/O
    client_tls        TLS with a client, from its ClientHello on
    next_layer        what a client speaks, decided on enough bytes; closed where it is neither TLS nor HTTP
    tunnel            a stream that is passed all the same, watched for TLS that begins later
    websocket         messages that are counted, and frames that go on as they come
    destinations      which addresses a client may have us connect to; pure
    this_machine      whether an address is this machine's, and what our listeners are reached by
    resolver          names to addresses: remembered, bounded, with a limit for each client
    turns             whose turn it is where all have only so many places; no I/O
    racing            one of several addresses (Happy Eyeballs)
    connecting        connections to servers on behalf of clients: looked up, judged, made
    proxyserver       mitmproxy's Proxyserver without its own guess at connections to itself
    stream            mitmproxy's HTTP stream, with an answer of its own to a client that may not have a connection
    socks             SOCKS5 with the reply that a denied destination has
    trailers          which fields may come behind the content, in HTTP/1 and HTTP/2; pure
    http1_server      HTTP/1 towards the client
    http1_client      HTTP/1 towards the server
    http1_parent      a parent proxy's answer to our CONNECT
    http1_connection  what server and client have in common
    http1_sections    heads and trailer sections as they arrive, within bounds; pure, as are those below
    http1_heads       request line, status line and fields
    http1_framing     where a message ends, and whether its connection goes on
    http1_bodies      content as it arrives
    http1_hops        fields that are about one connection alone
    http1_sending     heads and content as they go out
    http1_faults      what a peer may not send, as one sentence
    nghttp2           the library for HTTP/2: its declarations, loading it, its errors as text
    http2_events      what an HTTP/2 peer has done, in types of our own
    http2_body        a message's body on its way out
    http2_reception   what nghttp2 calls back with, gathered as events and counted against the bounds
    http2_session     one end of an HTTP/2 connection, without I/O: bytes and messages in, events and bytes out
    http2_paced       the turns of a connection's layer: what goes out when, and what is given back when
    http2_connection  what the layers of both ends have in common between mitmproxy's HttpEvents and a session
    http2_server      the layer towards a client
    http2_client      the layer towards a server

Whatever comes from the network has a bound in bytes, time and number here before it is read on. User scripts see what
they always saw: mitmproxy's flows, hooks and layers go on behind this.
"""
