"""`hsmitm init`: a partition with two CA keys, their certificates, and a commented hsmitm.toml. Never overwrites.

Keys are made by a member process, as they will be used by one: no other process loads a module. hsmitm.toml is written
last, so that it is there only when all that it names is there too.

    init    the order of things
    wanted  the command line, parsed: what goes together and what does not
    login   where its PIN comes from, and how `init` logs in: as the member will
    place   where the keys go: a partition that is named, or a new one of SoftHSM
    plan    what is missing for one CA, and what will be made
    keys    both CA keys and their certificates: what is there is kept, what is missing is made
    pace    what the partition takes to sign, and the settings that fit that
    certificate  a CA's certificate, signed by its own key, or proved to be that key's
    subject  what the two CAs are called
    text    the text of hsmitm.toml
    files   what is written: names, and that nothing is overwritten
"""
