"""`python -m quorate`: the same as the command `quorate`."""

from quorate.cli import main

main()
