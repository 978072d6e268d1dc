"""The running program: command line, configuration and processes. It may import everything; nothing imports it.

main        the command line
config      hsmitm.toml -> frozen objects
supervisor  start, watch and restart signer and workers
child       one supervised process; its far end watches for the supervisor
signing     the signer's process: wiring only
worker      a worker's process: wiring only
gnutls      a TLS server connection whose private key lives elsewhere
gnutls_credentials  what a TLS server of one site presents and demands
gnutls_key  a private key that lives elsewhere, as GnuTLS asks for it
gnutls_library  GnuTLS's declarations, loading it, its errors
lean        which of mitmproxy's addons a worker needs
loop        the worker's event loop
listening   is the proxy's address free, and for whom
setup       `hsmitm init`
check       `hsmitm check`
hsm_commands  `hsmitm hsm ...` and `hsmitm reload`
members_file  hsmitm.toml edited as text, and replaced
options     what several commands share
demo        `hsmitm demo`
status      the status page and `hsmitm status`
"""
