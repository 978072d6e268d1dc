"""The measurement of connections that are passed by."""
