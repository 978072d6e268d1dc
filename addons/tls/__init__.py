"""TLS in words and in time, for both directions of inspection. It makes no connection and asks for no key.

client_hello       what a client can verify and speak; no I/O
read_hello         a ClientHello, read in one go; no I/O
protocol           versions and ciphers as an operator chooses them, and as GnuTLS's priorities; no I/O, no library
suites             cipher suites of TLS 1.2 towards clients and servers; no I/O
refusal            a TLS connection that only says no
pieces             pyOpenSSL's connection, with what is to be sent taken out in one piece
failures           why a client's handshake failed, in a sentence; no I/O
goodbye            how a TLS layer ends: with an alert, or close_notify, and at once
lingering          last words that arrive: a connection that is ended in two steps
handshake_timeout  a limit in time for handshakes on both sides
"""
