"""X.509 without I/O but for reading PEM files, and without any HSM: what the signer signs is built and checked here.

The signer uses all of it; `hsmitm init` makes a CA's own certificate; workers read certificates and nothing else. What
depends on the time is given it; `load_issuer` alone looks at the clock.

    settings  what an operator may say of leaves, and its bounds
    files     certificates read from PEM files, and what their keys are called; workers use it, too
    issuer    a CA that may sign, and the leaves that it approves
    ca        the template of a CA's own certificate
    leaf      a template that was approved: one certificate, once, of the issuer that approved it
    leaf_key  the public keys that a leaf may have
    standin   a private key for certificate builders alone
"""
