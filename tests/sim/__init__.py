"""The seeded simulation of the world in which policy lives: one seed is one world, in virtual time, without a process or a sleep.

agenda    what happens next, and processors that are shared
plan      a seed becomes programs, their settings, how their builds behave, and which mischief this world knows
servers   instances, their slots, and the customers' queue
watcher   looks at instances and tells the truth, or (by mischief) late, twice or never
mischief  faults and operators
world     the supervisor's turn: event, step, record, effects; deaths; calm and convergence
invariants  what must hold after each step
mutants   planted defects, each of which must be found
run       one seed, and what to print when it fails
"""
