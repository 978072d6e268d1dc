"""mitmproxy addons: each file is one decision of a connection's way. They ask the signer and know no key of it.

    inbound       present our own servers' certificates (tls_start_client), its handshakes signed on the HSM
    inbound_layer mitmproxy's layers for it
    patient_http  mitmproxy's HTTP layer, patient with clients that half-close
    inbound_sites which site a client asks for, and where its server is; no I/O
    inbound_upstream  TLS to a site's server that is verified in a way of its own
    handshakes    TLS handshakes on threads
    forward       present a minted leaf to the client (tls_start_client)
    leaf_names    which names the leaf carries; no I/O
    leaf_cache    leaves that were minted: bounded, renewed before they expire, one mint for each name set at a time
    leaf_keys     the worker's own keys that leaves are made for
    client_hello  what a client can verify; no I/O
    block         who may use the forward proxy
    upstream_tls  TLS to servers: mitmproxy's own addon without its certificate authority
    handshake_timeout  a limit in time for handshakes on both sides
    availability  whether the HSM is in service, and what to do while it is not
    refusal       a TLS connection that only says no
    connection_log  one line for each connection that fails
    metrics       count connections, handshakes and flows in progress

They import hsm.wire.client, hsm.errors, hsm.names and hsm.wire, and nothing of proxy.
"""
