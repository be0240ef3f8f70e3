"""The audit log of one process: written by `append`, checked by `verify`, which share no code.

A log is a file of ASCII lines, each a JSON object and a newline:

    {"seq":1,"time":"2026-01-31T23:59:59.000000Z","prev":"<64 hex>","event":{…},"hash":"<64 hex>"}

`seq` counts from 1; `prev` is the `hash` of the line before, 64 zeros in the first; `hash` is the SHA-256 of
the line without `,"hash":"…"`, that is of its bytes before this member, and `}`. `event` maps names to
strings, numbers, true, false, null, and lists of strings.

This is format 1. Lines of a later format begin with `{"format":N,`, so that this build can name them; it neither
continues nor checks them.

The chain shows that a line was changed, removed or inserted. It cannot show that the end was cut off or
written anew by someone who may write the file: for that, keep the last hash elsewhere.
"""
