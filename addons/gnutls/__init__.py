"""TLS server connections whose private key lives elsewhere: GnuTLS by cffi, behind the interface that mitmproxy calls.

    library      the C library: its functions, its error codes, and callbacks that may raise
    key          a private key that is asked by callables
    credentials  what the server of one site presents and demands
    connection   one client's connection, over memory buffers

GnuTLS is the distribution's. It is loaded when the first site is served: a worker without sites needs none. Which sites
there are and who signs, `addons.inbound` knows.
"""
