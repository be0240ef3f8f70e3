"""A simulator of epoch changes: the services' own classes on virtual time, with real modules on disks that fail.

`schedule` decides what happens, out of one seed; `world` has everything that it happens to: `loop` (time), `network`,
`storage` (the hub's database), `processes` (hub and nodes), `liars` and `evil` (members and a hub that lie);
`reference` says at every instant what must hold. `founding` makes the fleet to begin with, `core` types what the
testing core adds, `mutants` makes mistakes on purpose. `make simulate` and `make mutants` run them.

A seed is a trace: nothing is drawn but from the world's generator and the modules' seeded ones, and no clock is read.
"""
