"""Inbound inspection: clients outside, our own servers inside, each handshake signed on the HSM.

    inbound       the addon: the site's connection for the client, its server, and what that is told of the client
    refused       why a client gets no handshake, as the decryption log has it; no I/O
    layer         mitmproxy's layers for it: read the ClientHello, pick the site, wait for the handshake's steps
    stepping      a handshake whose steps are done elsewhere
    handshakes    TLS handshakes on threads
    site_http     HTTP with a client of one of our sites: what is for another one is answered 421
    authority     whether a request is for the connection's own site; no I/O
    sites         which site a client asks for, and where its server is; no I/O
    told          what a site's server is told of the client in headers, and what a client cannot say there; no I/O
    proxy_protocol  the header of the PROXY protocol, which tells it before the first byte; no I/O
    settings      listeners and sites as values: types, defaults and bounds; no I/O
    loading       settings and certificate files become sites
    over_time     the sites of a worker over time: what a reload and the signer's terms change
    signer_keys   inbound keys as a worker has them: a public key, and the signer to ask

It runs in workers that have listeners of our own sites. It never reads hsmitm.toml and holds no private key.
"""
