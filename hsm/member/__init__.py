"""One partition as the signer drives it, over all lives of its process.

It runs in the signer. It knows `hsm.wire.member`, PINs' sources and the public halves of keys; it knows no module, and
of its group only what `member.Peers` says. Signatures leave it verified.

    member       the door: what the group asks of a member, what the status shows, what an operator does
    settings     one partition as the configuration names it; the operator's times and retry counts
    states       the states of a member as a table, and how long it stays away; no I/O
    standing     the state of one member, why it is so, and what one failure concludes
    examination  test signatures: that it lives, and whether a doubted member is cleared or lost
    succession   its lives one after another: start, watch, back off; a new life beside the old one
    turn         whose sessions are built anew: one member of a group at a time
    starter      starts a process: PIN, exec, login, keys proved
    login        a started process logs in: the try is noted before, and at once what became of it
    life         one life: a process, the keys that it proved, its signatures
    held         the keys of a life: found, proved, looked for again, and what is said of them
    proofs       the challenges that prove which schemes of a key a member makes
    proved       what a life proved: schemes made, lacking, doubted; no I/O
    process      a member process seen from here: start it, talk to it, kill it
    speech       what a member process prints: read always, logged in part
    key          a key of the group, and the challenges that prove it; no I/O
    health       what a member's answers say about it; no I/O
    pace         what a request takes there, and how many at a time are of use; no I/O
    slots        how many requests may be in flight at a member; no I/O
    metrics      counters of what members did
"""
