"""`python -m fake_github --port 0 --state state.json`: the fake in a process of its own."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from fake_github.server import FakeGitHub
from fake_github.state import State


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="fake_github")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--prefix", default="")
    args = parser.parse_args()
    state = State.load(args.state) if args.state.exists() else State()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with FakeGitHub(state, port=args.port, prefix=args.prefix, save_to=args.state) as fake:
        sys.stdout.write(json.dumps({"api_url": fake.url, "blob_url": fake.blob_url}) + "\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
