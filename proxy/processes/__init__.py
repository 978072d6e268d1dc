"""The processes of a running hsmitm: each file starts one, wires its parts and ends it in order. Policy is elsewhere.

supervisor   starts signer and workers, watches them, ends them; holds no key, signs nothing
child        one process that is kept running: started again when it ends or hangs
supervised   what such a process does itself to be one: its first line, signs of life, ready
guard        only one supervisor of a configuration, and the orphans of a killed one
environment  what of our environment a worker gets
quarters     where workers live: as whom they run, and what keeps them from the keys; the strongest that is possible
cage         what a worker gives up before it is executed
reach        what of the file system a worker needs, and what it must never have
landlock     keeping a process from files, by the kernel's Landlock
rights       capabilities, users, no new privileges, not being looked into
view         a mount namespace in which a worker's user gets behind closed directories
files        files that the configuration names, opened for a worker by its supervisor
line         a worker's end of that
limits       descriptors and core files
notify       what systemd is told: ready, alive, stopping
signer       the signer's process: the service of `hsm.signer`, its signals, and alone its status page
status_page  the status page's process: it meets monitors and asks the signer; no PIN, no PKCS#11
outgoing     what a worker has that connects to others
worker       a worker's process: mitmproxy with our addons; no PIN, no PKCS#11
logs         how log lines look, in each of them; what is told and counted of those that are left out
log_rates    how many lines of one kind a second are written
log_writer   lines on their way out: a thread that alone waits for whoever reads them
record_file  records of the decryption log on their way to a file; opened anew, never waited for
tally        how many connections a worker began, and of how many there is a record; it outlasts the worker
mint_records  the record of a leaf is written before the leaf is answered
"""
