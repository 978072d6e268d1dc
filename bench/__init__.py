"""Measurements of hsmitm as it runs, and the rig that makes HSMs fail.

Nothing of hsm, addons or proxy imports it, only tests do; the command line finds it as an entry point. It may import
all of them, and is installed with them, but for the rooms that need a checkout of the sources.

Installed:

    report   what a measurement found, and what every report is made of
    sign     signatures per second of the module, through a member, and through the signer, which take turns
    mint     complete certificates per second, for new names and for names in the cache
    plan     from connections to signatures per second, members and sessions

In a checkout alone:

    rig      what measurements are made with: a module that fails on command, whole systems, origins, peers, load
    forward  hsmitm and every peer that is installed take turns under connections, requests and large bodies
    bypass   connections that are passed by: hsmitm beside squid that splices and mitmdump that ignores
    inbound  hsmitm, nginx with the PKCS#11 engine and nginx with key files take turns under new connections
    soak     members fail at random, or are killed again and again, and come back
    edge     attacks on a running hsmitm, each beside a client that does nothing wrong
    fuzz     spoiled handshakes of real clients against a worker with sites

Who imports whom: report nobody of bench, rig only report; sign report, mint report and sign, plan all three; forward,
bypass, inbound, soak, fuzz and edge only rig and report, never each other. No room imports the files of this one but
`checkout`:

    commands           hsmitm bench ...: those that are installed
    checkout_commands  hsmitm bench ...: those that need a checkout
    options            what these commands have in common
    checkout           is this one, and what is said where it is none; the only way from installed rooms to the rig
"""
