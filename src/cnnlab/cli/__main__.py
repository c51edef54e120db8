"""`python -m cnnlab.cli` is `cnnlab`."""

from cnnlab.cli.program import command_line

command_line()
