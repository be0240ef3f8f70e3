"""Processes of a real fleet killed before and after each durable call that they make.

Here: the numbered calls of each operation (`points`), a small fleet that is put back for each of them (`fleet`), the
operations and what each must have kept (`operations`), one point from its kill to its verdict (`attempt`), many of
them (`__main__`).
Not here: schedules of several crashes, partitions and liars (`tests/simulation`); disks that fail (`tests/e2e`).
"""
