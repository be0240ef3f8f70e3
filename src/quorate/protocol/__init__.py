"""Sans-I/O machines: an event and `now` in, the next state and what to do out (docs/protocols/).

Here: decisions. Not here: sockets, disks, clocks, secrets; nothing of ours but `ids` and `errors`.
"""
