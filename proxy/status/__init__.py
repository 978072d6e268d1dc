"""What monitors see, served by a process of its own: it asks the signer, holds no secret, and may fail by itself.

server  listening: one request a connection, its bounds, who makes room for whom
page    /metrics for Prometheus, /healthz and /readyz: a request's head -> an answer
hosts   the names that the page may be asked for by
sight   what the signer told last, asked once a second at most
"""
