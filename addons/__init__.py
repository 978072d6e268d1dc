"""mitmproxy addons: each file is one decision of a connection's way. They ask the signer and know no key of it.

    forward       present a minted leaf to the client (tls_start_client)
    leaf_names    which names the leaf carries; no I/O
    leaf_cache    leaves that were minted: bounded, renewed before they expire, one mint for each name set at a time
    leaf_keys     the worker's own keys that leaves are made for
    client_hello  what a client can verify; no I/O
    upstream_tls  TLS to servers: mitmproxy's own addon without its certificate authority
    handshake_timeout  a limit in time for handshakes on both sides
    availability  whether the HSM is in service, and what to do while it is not
    refusal       a TLS connection that only says no
    metrics       count connections, handshakes and flows in progress

They import hsm.client, hsm.errors, hsm.names and hsm.wire, and nothing of proxy.
"""
