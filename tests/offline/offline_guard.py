"""Refuses every connection and name look-up that leaves this machine, and remembers each attempt."""

import os
import sys
from typing import Any

LOOPBACK = ("127.", "::1", "localhost", "::ffff:127.")

attempts: list[str] = []
_state = {"watching": False}


def is_local(host: object) -> bool:
    """Whether a host, or the path of a local socket, stays on this machine."""
    if host is None or isinstance(host, bytes | bytearray):
        host = (host or b"").decode(errors="replace")
    return host == "" or str(host).startswith((*LOOPBACK, "/", "\0", "@"))


def _refuse(target: str, *, end_process: bool) -> None:
    attempts.append(target)
    if end_process:
        sys.stderr.write(f"offline guard: this process tried to reach {target}\n")
        sys.stderr.flush()
        os._exit(1)
    raise PermissionError(f"offline guard: a test tried to reach {target}")


def watch(*, end_process: bool) -> None:
    """Guards this process from now on; an audit hook, which nothing can take off again.

    Args:
        end_process: exit 1 at the first attempt, instead of raising PermissionError.
    """
    if _state["watching"]:
        return
    _state["watching"] = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) else address
            if not is_local(host):
                _refuse(str(address), end_process=end_process)
        elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not is_local(arguments[0]):
            _refuse(str(arguments[0]), end_process=end_process)

    sys.addaudithook(hook)
