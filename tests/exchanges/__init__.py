"""One recorded exchange of each kind, by each way through hsmitm and directly: what arrives is compared.

place       where it happens: an event loop, and as root a network of its own, in which clients are redirected
ends        the two ends of an exchange, on libraries that hsmitm does not use, and what each of them saw
ends1       HTTP/1.1
ends2       HTTP/2
ends_raw    what is not HTTP
kinds       the exchanges: what a client does, and what a server does; whoever mends one adds its kind here
ways        how a client comes to its server
comparison  what two recordings differ in
scene       one running hsmitm for each way, and what tests do with it that have servers or clients of their own
client2     a client of HTTP/2 that asks for many things on one connection

Beside the matrix, the tests here look at one point each, with real clients (curl, openssl, h2load) and servers. By
which ways, where "inbound" is a site of ours, "across" has another version of HTTP behind us than in front, and
"scripted" has a script that looks on:

point                                  explicit  socks5  transparent  inbound  across  where
messages go on as they come               x        x         x           x       x     matrix: events, slow ...
1xx, Expect                               x        x         x           x       x     matrix: hints, expectation ...
trailers                                  x        x         x           x       x     matrix: trailers, failed_call
HTTP/2 without length, reopened as 1.1    x        x         x           x       x     test_reopened
a client that goes away                   x        x         x           x       x     matrix: left_answer
alerts                                    x        x         x           x             test_alerts
suites and groups                         x        x         x           x             test_tls
CAs of both kinds                         x        x         x           -             test_tls
empty lines, hops, codes of GOAWAY        x        x         x           x       x     test_http
names of leaves, words of refusals        x        x         x           x             test_tls, test_http
who asks                                  -        -         -           x       x     test_http, test_inbound_told
protocols that are not HTTP               x        x         x           x             matrix: talk, half_closed
what lasts stays flat                     x        x         x           x             test_channels, test_flat
servers that go away                      x        x         x           x       x     test_http
dead addresses                            x        x         x           x             test_dead_addresses
wanted client certificates                x        x         x           x             test_client_certificates
WebSocket over HTTP/2                     x        x         x           x       x     test_reopened
"""
