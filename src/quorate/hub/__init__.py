"""The hub process: drives the machines of `protocol` with a store and links; only `service` opens its module.

Here: roster, domains, quorum selection, the order of records, the admin API.
Not here: decisions (`protocol`), shards (a hub's module holds none), the operator key.
"""
