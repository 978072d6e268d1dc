"""HTTP/1 at both ends, by RFC 9112: what can be read in two ways is refused, and nothing is read without a bound.

bodies      content as it arrives
client      HTTP/1 towards the server
connection  what server and client have in common
faults      what a peer may not send, as one sentence
framing     where a message ends, and whether its connection goes on
heads       request line, status line and fields
hops        fields that are about one connection alone
lingering   a connection that is to end while its peer still sends
parent      a parent proxy's answer to our CONNECT
sections    heads and trailer sections as they arrive, within bounds
sending     heads and content as they go out
server      HTTP/1 towards the client

`server`, `client`, `parent` and what they share (`connection`, `lingering`) are mitmproxy's layers; all else is pure:
bytes in, values out, no clock and no socket.
"""
