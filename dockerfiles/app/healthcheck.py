"""Exit with 0 when the service in this container is ready, 1 when it is not.

For Dockerfiles: `HEALTHCHECK CMD ["python", "-IS", "/app/healthcheck.py"]`; `-IS` skips site
packages, so that the check costs milliseconds. Standard library only, and little of it.
"""

import os
import socket
import sys

TIMEOUT_SECONDS = 3.0


def main() -> int:
    """Ask `/ready` and return the exit code."""
    host = os.environ.get("HOST") or "127.0.0.1"
    address = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), _port())  # noqa: S104
    try:
        with socket.create_connection(address, timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status_line = connection.recv(64).split(b"\r\n")[0]
    except OSError as error:
        print(f"not reachable at {address[0]}:{address[1]}: {error}")
        return 1
    print(status_line.decode("ascii", "replace"))
    return 0 if b" 200 " in status_line else 1


def _port() -> int:
    return int(os.environ.get("PORT") or 8080)


if __name__ == "__main__":
    sys.exit(main())
