"""The matrix: vendors' modules that can be run here, each with a token of its own. `./dev test modules` runs it.

vendor          one vendor's module with its token, its PIN and its daemons
vendors         every vendor
softhsm         SoftHSM
p11_kit         p11-kit's client, across a socket
opencryptoki    openCryptoki, its daemon on private paths (with private_paths.c)
nss             NSS's softokn, itself or behind p11-kit's proxy
tpm             tpm2-pkcs11 on swtpm
daemon          a program that a module talks to
importing       a process that puts a key onto a token
module_system   a whole hsmitm on one token, or on several as an HA group
"""
