"""What should be done, as functions over values: no clock, no I/O, no randomness. See docs/policy.md."""
