"""The words of the control protocol, shared by both sides: JSON-RPC 2.0, one message a line, over a unix socket.

Imports nothing: `reviver status` pays for every import. Codes of our own are the exit codes of the verbs (JSON-RPC leaves all
numbers above -32000 to the application), so that the client needs no table.
"""

SOCKET = "control.sock"  # in the runtime directory
LOCK = "lock"  # beside it: held (flock) by the daemon that owns the directory; its text is that daemon's pid

MESSAGE_LIMIT_BYTES = 1024 * 1024  # one request; the largest sensible one is a few KiB
NAMES_LIMIT = 10_000  # programs in one request
EVENTS_LIMIT = 10_000  # events in one answer

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
NO_SUCH_METHOD = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

REFUSED = 1  # refused or failed, with the reason
USAGE = 2
NOT_RUNNING = 3  # something is not running, or no daemon answers
NO_SUCH_PROGRAM = 4
BAD_CONFIG = 78

NAMES_SHOWN = 10  # in a sentence

ALL = "all"  # in the place of a name: every program


def programs(names: list[str]) -> str:
    """Which programs there are, for somebody who named another one."""
    if len(names) == 1:
        return f"there is only {names[0]!r}"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"there are {', '.join(names[:NAMES_SHOWN])}{more}"
