"""TLS to servers. It decides whether a server is who it says, and what becomes of one that does not prove it.

layer       mitmproxy's TLS layer, in which a server is judged, and whose end is heard of
tls         any server: mitmproxy's own addon without its certificate authority, as the profile in force demands
connection  a connection that goes on whatever OpenSSL has to say of the certificate, and remembers all of it
judging     between handshake and use: what others know is asked for, and what becomes of the server is noted
judge       what the profile makes of a server's faults; no I/O
faults      what can be wrong with a certificate, by OpenSSL's codes; no I/O
repeated    the verification of a chain once more, with what a server forgot to send
issuers     certificates of issuers that servers forgot, fetched from where certificates say
settings    what the configuration says of servers, beside the policy
own         certificates of ours, for servers that ask for one
visit       a server's certificate as it is seen now, for people
stated      a site's server that is verified in a way of its own: roots, a name, a pinned certificate
"""
