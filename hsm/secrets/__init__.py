"""What must not be seen: where PINs come from, and which of them a token refused.

The signer's process alone imports this, and `hsmitm check` and `init`, which log in themselves. No worker does.

    settings  where a member's PIN comes from, as the configuration says it
    pin       the PIN, read from there
    refusals  the PINs that a token refused, or may have refused, remembered on disk
    attempt   one try of a PIN, noted on disk before it is made
    record    what is kept of a PIN that was tried; no I/O
"""
