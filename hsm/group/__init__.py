"""The members that hold the same keys: the only loop over members.

It runs in the signer, and knows members by what they show. What a failure means and who is asked next is decided
without I/O or clock; it knows neither workers nor certificates.

    group         the door: signatures, what can be said of a key, what an operator does to members
    dispatch      the way of one request: choose a member, ask, fail over, wait for a slot
    choice        which member gets the next request; no I/O
    failover      what to do after a failure, and whom it blames; the budget of retries; no I/O
    signature     what a signature's record says of it; no I/O
    waiting_line  requests that wait for a slot: bounded, their askers served in turn
    states        the states of the group as a table over its members'; no I/O
"""
