"""Connections to servers on behalf of clients: which address a name is, whether it may be reached, and how.

destinations  which addresses a client may have us connect to; pure
this_machine  whether an address is this machine's, and what our listeners are reached by
resolver      names to addresses: remembered, bounded, with a limit for each client
racing        one of several addresses (Happy Eyeballs)
connecting    connections to servers on behalf of clients: looked up, judged, made
errands       connections of the worker's own, to where a certificate says
proxyserver   mitmproxy's Proxyserver without its own guess at connections to itself
judged        a request that the policy lets through, or its page
stream        mitmproxy's HTTP stream, with an answer of its own to a client that may not have a connection
socks         SOCKS5 with the reply that a denied or blocked destination has
redirected    redirected traffic, not connected where it is blocked
"""
