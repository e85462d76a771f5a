"""The verbs of the command line, a file for a group: they ask the daemon or work without it, and print."""
