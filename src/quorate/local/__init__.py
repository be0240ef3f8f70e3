"""The parts of a fleet that lie on this machine: where their files are, what runs, and a whole fleet in one go.

Here: the layout of a data directory, starting and stopping processes, ports, the client's credentials and CA
bundle, what the operator signs for a hub, and the order in which `quorate up` composes all that.
Not here: what a hub or a node does (`hub`, `node`), printing (`cli`).
"""
