"""The running program: command line, configuration and processes. Wiring: what it wires is in `hsm` and `addons`.

It may import everything; nothing of the product imports it.

    main        the command line: `hsmitm ...`
    commands    what its commands do, but for those that start processes
    config      hsmitm.toml, from its text to what each process is given
    processes   what `run`, `signer` and `proxy` start, and how it is kept running
    status      the status page: what monitors read over HTTP
    demo        `hsmitm demo`: the main job on real traffic, proved
    listening   whether an address is free, asked before several processes share it
"""
