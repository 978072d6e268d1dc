"""`hsmitm explain HOST`: all that is known about why a host does, or does not, work through the proxy. For a help desk.

It works while hsmitm runs and while it does not, and says of each part why it is not known. Nothing is changed.

    explain    what is asked for, and every part of the answer
    report     what was found, as `--json` has it
    policy     what the policy does with such a connection, and what excludes it from inspection
    past       the last connections from the decryption log, read from its end
    server     the server's certificate as it is seen now, judged as the policy says
    hsm        what the signer says of the HSM
    screen     the report on a terminal, in sentences
"""
