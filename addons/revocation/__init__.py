"""Whether a certificate is still good: what is stapled to our own sites' certificates, and what is known of servers'.

Loaded by workers, and in parts by `hsmitm check`. Who shows a response in handshakes is not known here, and no key is.

    ocsp       the request for one certificate, what may be stapled, and when to ask again; no I/O
    ocsp_http  asks a responder over HTTP, bounded in time and size
    keeper     the signer, which keeps what one worker fetched for the others, and gives the turns to fetch
    origins    where responses come from: a file, a responder, or a responder that one worker asks for all
    staples    the responses of a process, each kept fresh by a task of its own
    status     whether a server's certificates are revoked, as far as is known in time: what is asked from outside
    answers    what is known of that, in words; no I/O
    check      the status of one certificate: what was stapled, its responder's word, its issuer's list
    named      what a certificate says about where more is to be learnt; no I/O
    crl        one CRL: whether it counts, and whether a certificate is in it; no I/O
    lists      the CRLs that certificates name, fetched once and kept while they count
    servers    whom certificates name, as servers that are asked: a few questions at a time
    download   one HTTP exchange, bounded in time, bytes and pieces
"""
