"""`python -m cnnlab` is `cnnlab`."""

from cnnlab.cli import command_line

command_line()
