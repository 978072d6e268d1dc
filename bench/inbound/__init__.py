"""hsmitm, nginx with the PKCS#11 engine and nginx with key files take turns under new connections.

It imports rig and report, and is not installed.

    inbound          the measurement: who runs, the turns and the report
    contenders       a server's turn under the closed loop, and the sum of its turns
    apache_bench     the closed loop: ab
    open_loop        new connections at a steady rate, in a process of its own
    forward_latency  what inbound load adds to a forward request
    forward_probe    such requests on one kept-alive connection through the proxy, in a process of its own
    kept             what inbound connections carry once they are there, and what idle ones occupy
"""
