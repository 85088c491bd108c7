"""`python -m broker` is `credbroker`."""

from broker.cli import main

main()
