"""Measurements of hsmitm as it runs, and the rig that makes HSMs fail.

It may import everything; nothing imports it but the tests. The command line finds it as an entry point.

faulty_module  a PKCS#11 module that fails on command (with faulty_module.c)
system         a whole hsmitm with an HA group of such modules, and the origin behind it
visits         a client that opens ever new connections through the proxy, and what it met
faults         the faults that a soak injects, and how each is restored
failover       the soak: faults at random, one member at a time
restarts       kill/restore cycles of a member
report         a result with versions, host and configuration, as JSON and as a table
commands       hsmitm bench ...
"""
