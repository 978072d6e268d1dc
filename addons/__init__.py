"""The data path: what a worker loads beside mitmproxy. It knows the signer's socket, and no key behind it.

    seam        the one place where classes of ours stand in for mitmproxy's, and for which versions that is true
    addresses   what an IP address is, and which others it stands for; pure
    account     on whose account something goes: clients told apart by address; no I/O
    turns       whose turn it is where all have only so many places; no I/O
    modes       the proxy modes of our own sites, beside mitmproxy's
    engine      mitmproxy, quick: its master, its event loop, its writes, the few of its addons that are needed
    edge        the network's side: listeners and HTTP connections of our own, and a bound for everything
    tls         what TLS clients can and want, and what is said to those that get nothing
    gnutls      TLS with clients of our own sites, whose keys live elsewhere
    upstream    TLS to servers, and how they prove themselves
    forward     forward inspection: leaves minted by the signer
    inbound     inbound inspection: our own sites, their handshakes signed on the HSM
    revocation  OCSP responses that are stapled
    records     what is known of a connection, and one line and one number for each thing that happens
    pages       what clients read in HTTP when a connection or a request comes to nothing
    policy      which connections are decrypted, and what is demanded of their servers

It runs in the workers alone; `hsmitm check` and the bench borrow from it. It imports words of hsm (`errors`, `names`,
`schemes`), `hsm.wire` and `hsm.certificates.files`: a worker that is taken over finds nothing in it that drives an HSM
or knows a PIN. It imports nothing of proxy: what stands in hsmitm.toml comes to it as values.
"""
