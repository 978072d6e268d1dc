"""The key side of hsmitm: everything that knows a PIN, a partition or a CA key, and nothing that knows HTTP.

Words, one meaning each: a *module* is a PKCS#11 library; a *partition* is a token (one key store, one login); a
*member* is one partition as hsmitm sees it, in a process of its own; a *session* is a PKCS#11 session inside a member;
a *group* is the members that hold the same keys; the *signer* is the process that owns the members and decides what
may be signed.

Words of this package, which every room may use, without I/O:

    errors        what went wrong, by what the caller does next
    codes         PKCS#11 return codes and what each calls for
    vendor_codes  the same for vendors' own codes, by module and by what an operator says
    vendor_variables  environment variables that vendors' libraries read
    backoff       how long to wait before the next try
    names         the names that a leaf may carry
    schemes       TLS signature schemes: their mechanisms, DigestInfo prefixes and verification
    uri           RFC 7512 PKCS#11 URIs
    effect        when a changed setting takes effect, said in its type
    reading       how a file of the configuration is opened where a process may not do so itself
    unavailable   what becomes of requests while no member is in service, in the operator's word

Rooms, each inside one process:

    wire          what processes say to each other: all that a worker gets of this package, beside the words
    token         the member process, alone with the vendor's library; alone imports pkcs11
    certificates  X.509, pure: what is signed, and files that are read
    secrets       where a PIN comes from, and which PINs a token refused
    member        one partition as the signer drives it, over all lives of its process
    group         the only loop over members: who gets a request, and what follows a failure
    signer        the service: who may have what signed

Imports point downwards: words import words; wire, certificates and secrets import words; token imports wire; member
imports wire, secrets and files of certificates; group imports member; signer imports them all but token, which nobody
imports: it is a process. It imports nothing of addons or proxy.
"""
