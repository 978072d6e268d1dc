"""The network's side of the data path: what stands between sockets and mitmproxy's layers.

    settings  how much of anything one client or server may ask for: types, defaults and bounds; no I/O
    account   on whose account something goes: clients told apart by address; no I/O
    destinations  which addresses a client may have us connect to; pure
    this_machine  whether an address is this machine's, and what our listeners are reached by
    resolver  names to addresses: remembered, bounded, with a limit for each client
    turns     whose look-up is next
    racing    one of several addresses (Happy Eyeballs)
    connecting  connections to servers on behalf of clients: looked up, judged, made
    proxyserver  mitmproxy's Proxyserver without its own guess at connections to itself
    stream    mitmproxy's HTTP stream, with an answer of its own to a client that may not have a connection
    socks     SOCKS5 with the reply that a denied destination has
    refusal   what is refused at the edge, by its class: one counter, one hook, one line that is bounded in number
    seam      the one place where classes of ours stand in for mitmproxy's, and for which of its versions that is true

Whatever comes from the network has a bound in bytes, time and number here before it is read on. User scripts see what
they always saw: mitmproxy's flows, hooks and layers go on behind this.
"""
