"""What the commands of `hsmitm` do that start no process of their own: in a terminal, for an operator.

Each is loaded when it is called: `hsmitm --help` is there at once. They ask the running signer over its admin socket,
or work on files and partitions while nothing runs.

    init           `hsmitm init`: a partition with two CA keys, their certificates, a commented hsmitm.toml
    check          `hsmitm check`: every part of a configuration, tried without serving
    check_sites    its part about our own sites
    check_schemes  its part about what tokens make with our keys, and what that means to clients
    check_pages    its part about the own page that clients see
    check_pace     its part about times: what a signature takes, and whether who waits for it waits long enough
    check_cage     its part about workers as processes: what keeps them from the keys, how much they carry
    check_records  its part about the decryption log
    check_policy   its part about the policy: how much there is of it, what ends
    pace           how long an HSM takes, measured, and the settings that fit it
    explain        `hsmitm explain HOST`: why a host does, or does not, work
    findings       what it finds, said line by line
    hsm            `hsmitm hsm ...` and `hsmitm reload`
    policy         `hsmitm policy ...`: what the policy does, did, and would do
    upstream       `hsmitm upstream ...`: servers, and what is wrong with their certificates
    resolving      where a host is, and whether clients are kept away from there
    tables         what the signer reports, on a terminal
    options        what several commands share: options, asking the signer, printing for programs
"""
