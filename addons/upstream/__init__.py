"""TLS to servers. It decides whether a server is who it says; what clients are then shown is decided elsewhere.

layer    mitmproxy's TLS layer, whose end is heard of: a server that wants a client certificate, say
tls      any server: mitmproxy's own addon without its certificate authority
chains   chains that lack an intermediate, completed
issuers  certificates of issuers, fetched from where certificates say
stated   a site's server that is verified in a way of its own: roots, a name, a pinned certificate
"""
