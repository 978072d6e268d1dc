"""The key side of hsmitm: everything that knows a PIN, a partition or a CA key, and nothing that knows HTTP.

Words, one meaning each: a *module* is a PKCS#11 library; a *partition* is a token (one key store, one login); a
*member* is one partition as hsmitm sees it, in a process of its own; a *session* is a PKCS#11 session inside a member;
a *group* is the members that hold the same keys; the *signer* is the process that owns the members and decides what
may be signed.

    errors     what went wrong, by what the caller does next
    codes      PKCS#11 return codes and what each calls for
    effect     when a changed setting takes effect, said in its type
    uri        RFC 7512 PKCS#11 URIs
    unavailable  what becomes of requests while no member is in service, in the operator's word
    schemes    TLS signature schemes: their mechanisms, DigestInfo prefixes and verification
    cryptoki   a module's function list, called with ctypes
    module     a module, its tokens, sessions and keys; this file and the next alone import pkcs11
    key_search how keys are found on a token, few or many
    partition  session threads of one logged-in partition
    pin        where a PIN comes from; the PINs that a token refused
    names      names a leaf may carry
    standin    a private key for certificate builders alone
    authority  leaf request -> approved template -> one signature -> certificate; no I/O
    wire       frames between processes; no I/O
    channel    a connection that carries frames both ways
    endpoint   private run directory, listening sockets, peer credentials
    lifecycle  the states of a member and of the group as tables; no I/O
    health     what a member's answers say about it; no I/O
    choice     which member gets the next request; no I/O
    failover   the way of one request over the members, and whom its failures blame; no I/O
    key        a key of the group, and the challenges that prove it; no I/O
    inbound    the sites of inbound inspection: certificates read from files, and the keys that they come to
    process    a member process: start, talk, kill; member_process is its other end
    life       one life of a member: the keys that it proved, its test signatures
    starter    starts a member's process: PIN, login, proof
    member     a member over all its lives: the driver of the states
    waiting_line  requests that wait for a slot
    group      the only loop over members
    member_settings  one partition as the configuration names it
    member_metrics  counters of what members did
    workers    who is connected, what they report, what those that are gone counted
    inbound_service  which inbound keys workers may use and for what; the ticket key that they share
    staples    OCSP responses of the sites' certificates, kept for all workers
    signer     the service
    client     asyncio client of the signer: for addons and the command line
    telemetry  counters of several processes as one

It imports nothing of addons or proxy: a worker that is taken over finds here only `client` and what that needs.
"""
