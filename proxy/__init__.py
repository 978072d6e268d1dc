"""The running program: command line, configuration and processes. It may import everything; nothing imports it.

main        the command line
config      hsmitm.toml -> frozen objects
inbound_config  its [[inbound]] part
section     what every table of it is made of
sites       our own sites: configuration and certificate files -> TLS credentials
inbound_sites  a worker's sites over time
signer_keys inbound keys as a worker has them
tls_protocol  versions and ciphers, as an operator chooses them
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
lean_master mitmproxy's master with a quicker way from a hook to those who want it
outgoing    what a connection sends, in few writes
listening   is the proxy's address free, and for whom
setup       `hsmitm init`
check       `hsmitm check`
site_check  its part about our own sites
findings    what it finds, said line by line
hsm_commands  `hsmitm hsm ...` and `hsmitm reload`
members_file  hsmitm.toml edited as text, and replaced
options     what several commands share
demo        `hsmitm demo`
origin      the small server behind the demo
logs        how log lines look
status      the status page and `hsmitm status`
"""
