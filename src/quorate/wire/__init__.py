"""Links between modules' hosts: bytes in order over mutual TLS 1.3 (`links`), and the hub's door for
enrolment (`enrol`).

Here: connections, who is at the other end, sizes, deadlines.
Not here: what a message means, or whether it is authentic: the fleet message is encrypted and signed inside
the modules, and this layer is trusted with delivery alone.
"""
