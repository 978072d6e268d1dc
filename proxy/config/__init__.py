"""hsmitm.toml: each table a type, the whole file a value that is right or a sentence that says what is wrong.

A default or a bound that a noun's settings have (`hsm/*/settings.py`) is taken from there; what has no settings has
them here, in its table. A test checks the template and the documents against the tables.

    file        the whole file, read and checked; and what the signer and the supervisor start from
    worker      what a worker reads of it, and nothing of the key side
    status      what the status page's process reads of it
    hsm         [hsm] and its members
    forward     [forward]: the two CAs, and leaves
    inbound     [[inbound]]: listeners for our own sites, and the sites
    operation   [proxy], [status], [run], [mitmproxy] and [log]
    policy      [policy], [profiles.NAME] and [[upstream.accept]]: what becomes of connections and of servers' faults
    pages       [pages]: what clients see of connections that are blocked or failed
    section     what every table is made of: addresses, errors that name a field, defaults and bounds of settings
    messages    what is wrong, in words
    edit        the file as text: a member's table added or removed, every other byte kept
"""
