"""Measurements of hsmitm as it runs, and the rig that makes HSMs fail.

It may import everything; nothing imports it but the tests. The command line finds it as an entry point.

faulty_module  a PKCS#11 module that fails on command (with faulty_module.c)
system         a whole hsmitm with an HA group of such modules, and the origin behind it
visits         a client that opens ever new connections through the proxy, and what it met
faults         the faults that a soak injects, and how each is restored
failover       the soak: faults at random, one member at a time
restarts       kill/restore cycles of a member
inbound        hsmitm, nginx with the PKCS#11 engine and nginx with key files take turns under new connections
inbound_system a whole hsmitm with sites whose keys are on a partition
nginx          nginx with one worker, its keys in files or on a partition
site           names, certificates and keys of the sites
plain_origin   the plain-HTTP server behind the sites
contenders     a server's turn under the closed loop, and the sum of its turns
apache_bench   the closed loop: ab
open_loop      new connections at a steady rate, in a process of its own
forward_probe  requests on one kept-alive connection through the proxy, in a process of its own
forward_load   what inbound load adds to such a request
processes      CPU time by process
versions       the distribution's packages that were measured
report         a result with versions, host and configuration, as JSON and as a table
commands       hsmitm bench ...
"""
