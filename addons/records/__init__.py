"""What becomes known of connections: addons that watch and change nothing.

connection_log  one line for each connection that fails
metrics         counters of connections, handshakes and flows, in a registry of this worker's own
"""
