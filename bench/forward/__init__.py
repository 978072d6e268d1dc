"""hsmitm and every peer that is installed take turns under connections, requests and large bodies.

It imports rig and report, and is not installed.

    forward     the measurement: who runs, the phases and the report
    system      a whole hsmitm with one member
    peers       mitmdump, squid, sslsplit and another version of hsmitm: how each is set up
    http2       what each has to do over HTTP/2
    figures     what the turns add up to: figures, targets, doubts, charts; no I/O
"""
