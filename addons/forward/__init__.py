"""Forward inspection: clients inside, servers outside, and leaves minted by the signer for each of them.

    forward       the addon: present a leaf to the client (tls_start_client)
    connects      CONNECT requests whose leaf could not be had
    known         what is known of a client, and of how its server did
    leaf_names    which names the leaf carries; no I/O
    leaf_store    which leaves are kept: those that were used again; no I/O
    new_names     how many names that nobody has asked for before a client may bring
    leaf_cache    leaves that were minted: bounded, renewed before they expire, one mint for each name set at a time
    leaf_keys     the worker's own keys that leaves are made for
    cas           the CAs that the signer has, and which of them a client can verify
    availability  whether the HSM is in service, as far as is known, and what to do while it is not
    contexts      TLS contexts towards clients, made once for each kind of connection
    block         who may use the forward proxy

The CAs' keys and what may be minted are the signer's: here is only what it answered.
"""
