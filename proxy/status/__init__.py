"""What monitors see, served by the signer's process: it hears of every worker and member.

page    /metrics for Prometheus, /healthz and /readyz over HTTP
"""
