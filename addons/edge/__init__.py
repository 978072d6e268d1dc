"""The network's side of the data path: what stands between sockets and mitmproxy's layers.

    settings    how much of anything one client or server may ask for: types, defaults and bounds; no I/O
    refusal     what is refused at the edge, by its class: one counter, one hook, one bounded line
    answers     what a client is told in HTTP of a request that came to nothing
    bucket      so many at once, and so many a second from there on
    websocket   messages that are counted, and frames that go on as they come
    trailers    which fields may come behind the content, in HTTP/1 and HTTP/2; pure
    streaming   which messages go on as they come; pure
    exchange    one request and its answer, each as it comes
    authority   the host that a request names; no I/O
    again       a request that its server has not begun is asked again
    exchanges   all requests of one client's connection
    listeners   who is connected, and what clients speak
    proving     what a server proves that nobody inspects
    connecting  connections to servers
    http1       HTTP/1
    http2       HTTP/2

Whatever comes from the network has a bound in bytes, time and number here before it is read on. User scripts see what
they always saw: mitmproxy's flows, hooks and layers go on behind this.
"""
