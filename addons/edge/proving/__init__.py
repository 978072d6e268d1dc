"""What a server proves that nobody inspects: its certificate, and that it is the host of a client's SNI.

probe       whether a server shows a good certificate, asked of it and remembered
proof       whether a destination is the host that an SNI says
trial       a TLS handshake of our own with a server, to see its certificate
"""
