"""What measurements, and tests, are made with: HSMs that fail on command, whole systems, origins, peers, load.

It imports report alone of bench, and is not installed.

    faulty_module   a PKCS#11 module that fails on command (with faulty_module.c)
    quirks_module   a PKCS#11 module that is otherwise than SoftHSM, as other vendors' are (with quirks_module.c)
    loopback_names  host names without a name server (with loopback_names.c)
    any_version     a configuration of whatever version, made fit for a measurement
    system          a whole hsmitm with an HA group of such modules, and the origin behind it
    inbound_system  a whole hsmitm with sites whose keys are on a partition
    site            names, certificates and keys of the sites
    plain_origin    the plain-HTTP server behind the sites
    nginx           nginx with one worker, its keys in files or on a partition
    tls_origin      nginx with a certificate for each host, behind forward proxies
    nginx_origin    nginx as the plain-HTTP server behind the sites
    peer            a proxy that hsmitm is measured against, as a process
    visits          a client that opens ever new connections through the proxy, and what it met
    nghttpd         nghttp2's server as the HTTP/2 origin
    tunnel          a client's connection, with or without a proxy in between, checked
    tunnel_load     the load generator that has many of them, a process of its own
    h2load          nghttp2's load generator on one HTTP/2 connection
    relay           a door into a proxy for clients that know no proxy
    port            a port for a program that is told where to listen
    server          a server's turn under that load, its memory, and the sum of its turns
"""
