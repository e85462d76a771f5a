"""The verbs of the command line, a file for a group: they ask the daemon or work without it, and print.

What goes wrong for an operator is a `Refusal`, with the exit code; the door prints it.
"""

from supervisor.control.client import Refusal as Refusal
