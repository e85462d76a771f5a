"""What is kept away while a library is imported is there again afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

from supervisor.slim import without


def test_a_module_is_absent_within_and_the_same_afterwards() -> None:
    import json

    with without("json", "no_such_module_anywhere"), pytest.raises(ImportError):
        import json as again  # noqa: F401  what is tested is that it fails
    assert sys.modules["json"] is json
    assert "no_such_module_anywhere" not in sys.modules


def test_after_the_daemon_was_imported_everything_can_be() -> None:
    script = (
        "import supervisor.__main__, ssl, rich, bz2, hashlib, hmac; ssl.create_default_context(); hashlib.sha256(b'').hexdigest()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
