"""Complete certificates per second, for new names and for names in the cache.

It imports report, and sign for the signer's process.

    mint             the measurement: its errands and its report
    signer_alone     a signer with one member and no worker
    worker           the worker that asks for certificates, a process of its own
    made_up_clients  what mitmproxy tells a worker of clients, without a network
"""
