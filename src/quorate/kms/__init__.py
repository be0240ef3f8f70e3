"""The AWS-KMS-compatible API: one file per operation group, one verifier in front, one error table.

Here: HTTP, AWS JSON 1.1, SigV4, AWS's limits, codes and messages.
Not here: keys, quorums, storage and the network between nodes; those lie behind `backend.Backend`.
"""
