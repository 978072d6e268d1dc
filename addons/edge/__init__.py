"""The network's side of the data path: what stands between sockets and mitmproxy's layers.

    settings    how much of anything one client or server may ask for: types, defaults and bounds; no I/O
    refusal     what is refused at the edge, by its class: one counter, one hook, one line that is bounded in number
    account     on whose account something goes: clients are told apart by address; no I/O
    limits      how many connections and handshakes there may be, in all and of one client; no I/O
    listeners   who is connected, how busy each client is, and whom to let go
    handler     the handler of a connection: its door, its back-pressure, its turns
    hello       a ClientHello, read once and bounded, or found within a stream; no I/O
    client_tls  TLS with a client, from its ClientHello on
    next_layer  what a client speaks, decided on enough bytes; closed where it is neither TLS nor HTTP
    tunnel      a stream that is passed all the same, watched for TLS that begins later
    websocket   messages that are counted, and frames that go on as they come
    seam        the one place where classes of ours stand in for mitmproxy's, and for which of its versions that is true

Whatever comes from the network has a bound in bytes, time and number here before it is read on. User scripts see what
they always saw: mitmproxy's flows, hooks and layers go on behind this.
"""
