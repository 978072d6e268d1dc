"""Clients as they come in: how many, how idle, and what they speak, decided on enough bytes.

limits      how many connections and handshakes there may be, in all and of one client; no I/O
listeners   who is connected, how busy each client is, and whom to let go
handler     the handler of a connection: its door, its back-pressure, its turns
hello       a ClientHello, read once and bounded, or found within a stream; no I/O
client_tls  TLS with a client, from its ClientHello on
next_layer  what a client speaks, decided on enough bytes; closed where it is neither TLS nor HTTP
bypass      TLS that is not opened: what is left of its layer
relay       two sockets that pass on to each other what they get, outside of all layers
splicing    a direction of a stream that carries much, left to the kernel
tunnel      a stream that is passed all the same, watched for TLS that begins later
"""
