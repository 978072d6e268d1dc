"""One recorded exchange of each kind, by each way through hsmitm and directly: what arrives is compared.

place       where it happens: an event loop, and as root a network of its own, in which clients are redirected
ends        the two ends of an exchange, on libraries that hsmitm does not use, and what each of them saw
ends1       HTTP/1.1
ends2       HTTP/2
kinds       the exchanges: what a client does, and what a server does; whoever mends one adds its kind here
ways        how a client comes to its server
comparison  what two recordings differ in
"""
