"""The signer's own room: the service that decides who may have what signed, counts it and tells of it.

It runs in the signer's process, which alone reads PINs. It drives members through their group and never speaks
PKCS#11; it builds what a CA's key signs itself, and knows nothing of HTTP or of mitmproxy.

    settings       what it needs to know, as types; each field says when a change takes effect
    signer         the door: open, serve, close; who may ask for what, on which socket
    quotas         how much each worker may have in a second, and the alarm where one wants more
    turns          work of the signer's own loop, each worker's in turn
    minting        names and a worker's public key -> a certificate
    records        where the record of a leaf goes, and how it looks
    inbound        which inbound keys workers may use and for what; the ticket key that they share
    premasters     RSA key exchange: 48 bytes for each ciphertext, at a time that says nothing
    sites          our own sites: certificates read from files, and the keys that they come to
    members        the members as the signer runs them; the CAs' keys that they hold
    workers        who is connected, what they report, what those that are gone have counted
    ledger         what one worker has counted, as far as it can be believed; no I/O
    reload         a configuration that is read again while we serve
    configuration  how many reloads there were, on disk: by it workers know whether to read their files again
    admission      who may use the admin socket: a token beside it that a caged worker cannot read
    monitors       the status page's process, as far as the signer is concerned: few connections, seldom answered
    punctual       waiting until a moment, whatever happened before it
    staples        OCSP responses that workers share, as bytes, and whose turn it is to fetch one
    status         gauges, counters of all processes as one, the report of `hsmitm status`
"""
