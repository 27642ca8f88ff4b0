"""What a result came from: command, versions, machine."""

import hashlib
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finefold.data.machine import num_threads, processor_name, versions


def text_hash(text: str) -> str:
    """16 hex digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance() -> dict[str, Any]:
    """Command line, time, versions and machine of this process."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"processor": processor_name(), "system": platform.system(), "threads": num_threads()},
    }
