"""The node process: one module, its links to the fleet, and the KMS API.

Here: `setup` (a module is made, a place in the fleet is asked for), `service` (the process), and the parts
that `service` puts together. Protocol decisions are `protocol/`'s; these files carry them out.
Not here: secrets (the module), what an AWS request means (`kms/`), how bytes travel (`wire/`).
"""
