"""HTTP/2 at both ends, on nghttp2: windows are given back when the other side has read, floods end their connection.

body        a message's body on its way out
client      the layer towards a server
connection  what the layers of both ends have in common between mitmproxy's HttpEvents and a session
events      what an HTTP/2 peer has done, in types of our own
paced       the turns of a connection's layer: what goes out when, and what is given back when
reception   what nghttp2 calls back with, gathered as events and counted against the bounds
server      the layer towards a client
session     one end of an HTTP/2 connection, without I/O: bytes and messages in, events and bytes out
nghttp2     the library for HTTP/2: its declarations, loading it, its errors as text
"""
