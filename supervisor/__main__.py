"""What `reviver run` becomes: `python -m supervisor [CONFIG]`, the daemon in as little memory as it needs.

asyncio and hashlib would import OpenSSL (6 MiB resident) for connections that the daemon never makes on its loop, structlog would
import rich for tracebacks that are never shown, msgspec a backport that Python 3.11 has no need of, shutil compressions that nobody
asks it for.
"""

from __future__ import annotations

import sys

from supervisor.slim import without

with without("ssl", "_hashlib", "rich", "typing_extensions", "bz2", "lzma"):
    from supervisor.daemon import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
