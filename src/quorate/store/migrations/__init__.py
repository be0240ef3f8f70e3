"""Migrations of the hub's database, each from one version to the next (run by `database`)."""
