"""Measurements on real processes, each beside its peers in the same run: `python -m bench NAME`.

They use loopback alone, folders of their own beneath the temporary directory, and leave no process behind.
"""
