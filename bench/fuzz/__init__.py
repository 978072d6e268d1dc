"""Spoiled handshakes of real clients against a worker with sites.

It imports rig and report, and is not installed.

    fuzz            the measurement: a system under the fuzzer, and what is watched meanwhile
    fuzzer          the cases: what is sent, and what came back
    mutations       how a handshake is spoiled; no I/O
    client_flights  what real clients send, recorded
    client_hello    a ClientHello taken apart and put together again; no I/O
    bystander       the well-behaved client beside them, a process of its own
"""
