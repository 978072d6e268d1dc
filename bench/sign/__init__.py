"""Signatures per second of the module, through a member, and through the signer, which take turns.

It imports report.

    sign     the measurement: its turns and its report
    points   where it is made: latency, members, sessions
    kind     a type of key and a signature scheme; no I/O
    target   partitions, PINs and keys: of a throw-away SoftHSM or of an operator's configuration
    depth    the three depths, open at one point, and a depth's turn
    player   a process that signs in its turns: what it is asked and what it answers
    raw      such a process, which calls the module in a tight loop
    caller   the load generator: such a process, which asks members or a signer
    work     what they all sign, and the proof that it was signed
    signer   hsmitm signer, in a process of its own
    system   such a signer, on these partitions
    row      the sum of a depth's turns
    figures  what the rows add up to: figures, the knee, doubts; no I/O
    charts   what --plot draws of them; no I/O
"""
