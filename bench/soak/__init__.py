"""Members fail at random, or are killed again and again, and come back.

It imports rig and report, and is not installed.

    failover  the soak: faults at random under connections, one member at a time
    faults    these faults, and how each is restored
    restarts  kill/restore cycles of a member
"""
