"""What becomes known of connections: addons that watch and change nothing.

connections     where the facts of each connection are, from its first byte to its record
facts           all that is known of one client connection, in one object; no I/O
record          a line of the decryption log: its parts, its bound, its schema; no I/O
translation     facts as a record, and back; no I/O
greeting        what a ClientHello tells of its client
ja4             the fingerprint of a TLS client; no I/O
legs            what came of a TLS handshake, with OpenSSL and GnuTLS
classes         which class of the closed list a failure is; no I/O
connection_log  one line for each connection that fails
decryption_log  a record of each connection at its end, as far as its rule wants one
traffic         failures, bytes, versions and groups of connections that ended, counted
metrics         counters of connections, handshakes and flows, in a registry of this worker's own
"""
