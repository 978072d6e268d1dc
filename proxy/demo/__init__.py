"""`hsmitm demo`: what hsmitm is for, on real traffic, with each claim proved before the operator's eyes.

It uses hsmitm from outside, as an operator does; `origin` serves the tests and the bench, too.

    demo    sets up, starts hsmitm, drives curl through it, says what held
    policy  what becomes of four sites, and what the log says of it
    visit   the demo's client: curl
    cage    proof that a worker is kept from the keys
    origin  a small HTTPS server with a throw-away certificate: "the internet"
"""
