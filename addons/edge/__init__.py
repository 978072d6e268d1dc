"""The network's side of the data path: what stands between sockets and mitmproxy's layers.

    settings   how much of anything one client or server may ask for: types, defaults and bounds; no I/O
    refusal    what is refused at the edge, by its class: one counter, one hook, one line that is bounded in number
    websocket  messages that are counted, and frames that go on as they come
    seam       the one place where classes of ours stand in for mitmproxy's, and for which of its versions that is true

Whatever comes from the network has a bound in bytes, time and number here before it is read on. User scripts see what
they always saw: mitmproxy's flows, hooks and layers go on behind this.
"""
