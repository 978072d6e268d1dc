"""Whether a certificate is still good: OCSP responses that a worker staples to its own sites' certificates.

Loaded by workers and by `hsmitm check`. Who shows a response in handshakes is not known here, and no key is.

    ocsp       the request for one certificate, what may be stapled, and when to ask again; no I/O
    ocsp_http  asks a responder over HTTP, bounded in time and size
    keeper     the signer, which keeps what one worker fetched for the others, and gives the turns to fetch
    origins    where responses come from: a file, a responder, or a responder that one worker asks for all
    staples    the responses of a process, each kept fresh by a task of its own
"""
