"""The command line: a module per command, which parses and calls the rooms below.

`commands.py` lists the commands, `program.py` runs the one that is asked for. Nothing heavy is imported before a
command needs it: what a handler calls, it imports itself.
"""

from cnnlab.cli.program import command_line, main

__all__ = ["command_line", "main"]
