"""The key side of hsmitm: everything that knows a PIN, a partition or a CA key, and nothing that knows HTTP.

Words, one meaning each: a *module* is a PKCS#11 library; a *partition* is a token (one key store, one login); a
*member* is one partition as hsmitm sees it, in a process of its own; a *session* is a PKCS#11 session inside a member;
a *group* is the members that hold the same keys; the *signer* is the process that owns the members and decides what
may be signed.

    errors     what went wrong, by what the caller does next
    codes      PKCS#11 return codes and the step that follows each
    uri        RFC 7512 PKCS#11 URIs
    schemes    TLS signature schemes: their mechanisms, DigestInfo prefixes and verification
    cryptoki   a module's function list, called with ctypes
    module     the only file that imports pkcs11
    partition  session threads of one logged-in partition
    pin        where a PIN comes from; the PINs that a token refused
    names      names a leaf may carry
    standin    a private key for certificate builders alone
    authority  leaf request -> approved template -> one signature -> certificate; no I/O
    wire       frames between processes; no I/O
    channel    a connection that carries frames both ways
    endpoint   private run directory, listening sockets, peer credentials
    lifecycle  a member's states as a table; no I/O
    member     the signer's handle on a member process (start, deadline, kill); member_process is its other end
    group      choose a member, verify what it signed
    workers    who is connected, what they report, what those that are gone counted
    signer     the service
    client     asyncio client of the signer: for addons and the command line
    telemetry  counters of several processes as one

It imports nothing of addons or proxy: a worker that is taken over finds here only `client` and what that needs.
"""
