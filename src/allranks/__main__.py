"""``python -m allranks``: the command line, where its script is not on the path."""

from allranks._cli import main

main(prog_name="allranks")
