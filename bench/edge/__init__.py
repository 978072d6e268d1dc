"""Attacks on a running hsmitm, each beside a client that does nothing wrong.

It imports rig and report, and is not installed. Each attack runs in a process of its own.

    edge           the measurement: what runs, each attack with its quiet moment, the report
    system         the hsmitm that is attacked, set up and started by its command line alone
    watch          what becomes of its processes, its metrics and its log
    verdict        what one attack came to, and when it has succeeded; no I/O
    bystander      the client that does nothing wrong, a process
    echo_origin    the server behind our own sites, a process
    name_server    a name server that does not answer for some names, a process
    attacker       one attack, a process
    attack         what an attack is
    target         what attackers are aimed at, and what they saw: types
    scene          what all attackers do
    server         the attackers' own servers
    frames         HTTP/2 as attackers write it
    table          all attacks
    hello          before TLS, and ClientHellos of unusual form
    certificate    servers that fail before they have proved who they are
    sites          another site than the one of the handshake, and forged headers
    heads          HTTP/1: malformed, endless, trailers
    http2          HTTP/2: floods, windows, trailers
    connections    idle ones, and the proxy asked for itself
    names          names without an answer, and ever new ones
    logs           bursts of refusals, long ones, and while nobody reads the log
    websocket      small messages that are large inside
    status         the status page
    worker_socket  what a worker that is taken over says to the signer
"""
