"""What must not be seen: where PINs come from, and which of them a token refused.

The signer's process alone imports this, and `hsmitm check` and `init`, which log in themselves. No worker does.

    settings  where a member's PIN comes from, as the configuration says it
    pin       the PIN, read from there
    refusals  the PINs that a token refused, remembered on disk
"""
