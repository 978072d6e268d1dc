"""The processes of a running hsmitm: each file starts one, wires its parts and ends it in order. Policy is elsewhere.

supervisor   starts signer and workers, watches them, ends them; holds no key, signs nothing
child        one process that is kept running: started again when it ends or hangs
supervised   what such a process does itself to be one: its first line, signs of life, ready
guard        only one supervisor of a configuration, and the orphans of a killed one
environment  what of our environment a worker gets
limits       descriptors and core files
notify       what systemd is told: ready, alive, stopping
signer       the signer's process: the service of `hsm.signer`, its signals, and alone its status page
status_page  the status page's process: it meets monitors and asks the signer; no PIN, no PKCS#11
worker       a worker's process: mitmproxy with our addons; no PIN, no PKCS#11
logs         how log lines look, in each of them
"""
