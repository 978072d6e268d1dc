"""What processes say to each other, and how it travels: all that a worker gets of the key side.

Each conversation has types and a codec of its own, so that what a socket must not carry cannot be decoded on it. No
room of hsm is imported here but the words: nothing of modules, members or the signer.

    frames         length and msgpack: the envelopes of every conversation, and what several of them say
    worker         a worker and the signer: all that a worker that is taken over can say
    admin          the command line and the signer
    status         the status page's process and the signer: one question
    member         the signer and a member process; the PIN travels here and nowhere else
    channel        a connection that carries frames both ways
    pressure       what a connection may cost the end that serves it
    client         a worker's or the command line's end of the signer's sockets
    endpoint       listening sockets, and who may connect
    census         how many connections a socket admits, of whom; no I/O
    run_directory  the private directory of the sockets, its lock, their names
    measures       the fixed list of what a worker may report
    telemetry      counters of several processes as one
"""
