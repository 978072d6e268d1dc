"""The far end of a member: a process that holds one module, one login and its sessions, and dies with the signer.

Only here is pkcs11 imported, and nothing imports this room but `bench.sign`: a vendor's library that hangs, crashes or
leaks does so in a process that can be killed. It knows requests of `hsm.wire.member`, and neither groups, states nor
other members. What a return code means is decided here, once, where the vendor is known.

    main         the process: frames in, answers out; always ends in `os._exit`
    sessions     a logged-in token: a thread for each session, all fed from one queue; they heal themselves
    module       a PKCS#11 library, loaded once and safe for threads, and asked for its tokens
    library      what python-pkcs11 holds of it: initialised once, with locks; its slots one by one
    slots        what each slot says; one that fails or hangs hides no other
    token        one token before and after login: the anchor session, sessions that share its login
    login        the one C_Login: what is looked at before it, and what each answer says about the PIN
    private_key  a private key of one session: what it can do, its public half, its signatures
    generation   making a key pair, with templates from full to least
    forms        in which form a token makes each scheme with one key, corrected by what it was seen to do
    search       how keys are found on a token, few or many
    attributes   what a token tells of an object, hidden and odd attributes among it
    public_half  the public half of a key, in whatever form a token keeps it
    challenges   which private key is the one of a public half, where a signature must tell
    exposure     how a private half can leave a token, or could have left
    cryptoki     a module's own function list, called with ctypes: what python-pkcs11 does not offer
    translation  the one place where a pkcs11 exception becomes one of ours
"""
