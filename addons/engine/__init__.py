"""mitmproxy, quick: the same hooks and layers with less between them. It knows nothing of leaves, sites or the signer.

master        the master: addons are found once, and hooks that can be handled at once never reach the event loop
outgoing      what a connection's layers send, in as few writes as can be
backpressure  who waits for whom between one client's connection and those to its servers
leaving       a worker that stops, and how connections hear of it
shortcuts     what mitmproxy does hundreds of times for each connection, without what nobody needs of it
onlookers     who looks at what passes
loop          the event loop: uvloop, tasks that begin at once, no connection without a time limit
stock_addons  which of mitmproxy's addons a worker needs, and the options that reach them
"""
