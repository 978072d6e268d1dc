"""From connections to signatures per second, members and sessions.

It imports report, and sign and mint to measure an HSM that nobody has numbers of.

    plan         the plan: what was asked, the advice and its report
    arrival_log  a list of hosts with times: lines that are used, lines that are refused
    demand       signatures by second: a log played through the leaf cache, or rates
    hsm_numbers  what an HSM can do, from results of sign and mint
    capacity     members and sessions for a demand; no I/O
"""
