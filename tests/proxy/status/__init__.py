"""The status page: its bounds, its answers, what it knows of the signer."""
