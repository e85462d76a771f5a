"""How it is done: one file for one thing of the operating system, each usable and testable alone."""
