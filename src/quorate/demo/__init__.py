"""The tour: a fleet on this machine, a real file through it, nodes killed, a corrupted shard; `make demo`.

Here: the steps in order, what each must show, and their words.
Not here: anything that only the tour could do: it uses `local`, the hub's client, and boto3 as anybody would.
"""
