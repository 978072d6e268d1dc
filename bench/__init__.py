"""Measurements of hsmitm as it runs, and the rig that makes HSMs fail.

It may import everything; nothing imports it but the tests. The command line finds it as an entry point.

faulty_module  a PKCS#11 module that fails on command (with faulty_module.c)
system         a whole hsmitm with an HA group of such modules, and the origin behind it
visits         a client that opens ever new connections through the proxy, and what it met
faults         the faults that a soak injects, and how each is restored
failover       the soak: faults at random, one member at a time
restarts       kill/restore cycles of a member
sign           signatures per second of the module, through a member, and through the signer, which take turns
signing_depth  these three depths, open at one point, and a depth's turn
signing_target  partitions, PINs and keys: of a throw-away SoftHSM or of an operator's configuration
signing_kind   a type of key and a signature scheme
signing_system a signer in a process of its own, on these partitions
signing_turn   what the processes that sign are asked and what they answer
raw_signing    the process that calls the module in a tight loop
called_signing the load generator: a process that asks members or a signer
signing_work   what they all sign, and the proof that it was signed
signing_row    the sum of a depth's turns
signing_figures  what the rows add up to: figures, the knee, doubts; no I/O
signing_charts its charts
inbound        hsmitm, nginx with the PKCS#11 engine and nginx with key files take turns under new connections
inbound_system a whole hsmitm with sites whose keys are on a partition
inbound_kept   what inbound connections carry once they are there, and what idle ones occupy
inbound_fuzz   spoiled handshakes of real clients against a worker with sites
fuzz           one such case: what is sent, and what came back
mutations      how a handshake is spoiled; no I/O
client_flights what real clients send, recorded
client_hello   a ClientHello taken apart and put together again
bystander      the well-behaved client beside them, a process of its own
nginx_origin   nginx as the plain-HTTP server behind the sites
nginx          nginx with one worker, its keys in files or on a partition
forward        hsmitm and every peer that is installed take turns under connections, requests and large bodies
forward_server a proxy's turn, its memory, and the sum of its turns
forward_figures what they add up to: figures, targets, doubts, charts; no I/O
forward_system a whole hsmitm with one member
peers          mitmdump, squid and sslsplit: how each is set up
peer           one of them as a process
tls_origin     nginx with a certificate for each host, behind all of them
loopback_names host names without a name server (with loopback_names.c)
tunnel         a client's connection through a proxy, checked
tunnel_load    the load generator, a process of its own
mint           complete certificates per second, for new names and for names in the cache
mint_worker    the worker that asks for them, a process of its own
made_up_clients  what mitmproxy tells a worker of clients, without a network
signer_alone   a signer with one member and no worker
plan           from connections to signatures per second, members and sessions
arrival_log    a list of hosts with times: lines that are used, lines that are refused
demand         signatures by second: a log played through the leaf cache, or rates
capacity       members and sessions for a demand
hsm_numbers    what an HSM can do, from results of sign and mint
site           names, certificates and keys of the sites
plain_origin   the plain-HTTP server behind the sites
contenders     a server's turn under the closed loop, and the sum of its turns
apache_bench   the closed loop: ab
open_loop      new connections at a steady rate, in a process of its own
forward_probe  requests on one kept-alive connection through the proxy, in a process of its own
forward_load   what inbound load adds to such a request
processes      CPU time by process
versions       the distribution's packages that were measured
plot           its charts
report         a result with versions, host and configuration, as JSON and as a table
commands       hsmitm bench ...
"""
