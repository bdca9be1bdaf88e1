"""Any request at all against the real service and a real model: it never crashes, always answers.

    python benchmarks/service/fuzz.py --python PYTHON --model SAVEDMODEL [--examples 3000]

Hypothesis makes the requests: proper ones with any body, heads and bodies with damage, JSON and
tensors with anything in them, anything at all on a socket. Failed: the process ended, an answer is
500, or no answer came where HTTP demands one.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import sys
from collections import Counter

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import Service, add_options, machine, npy, serving, write

SECONDS = 30
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=30,
)
_parts = ["inputs", "instances", "signature", "signature_name"]
_bodies = {
    "JSON": st.dictionaries(st.sampled_from(_parts), _json).map(
        lambda value: json.dumps(value).encode()
    ),
    "bytes": st.binary(max_size=2000),
    "tensor": hnp.arrays(
        hnp.scalar_dtypes() | hnp.byte_string_dtypes(), hnp.array_shapes(max_dims=5, max_side=6)
    ).map(npy),
    "deep": st.integers(1, 200_000).map(lambda depth: b"[" * depth),
    "number": st.integers(1, 100_000).map(lambda digits: b'{"inputs":' + b"9" * digits + b"}"),
}
_kinds = st.sampled_from(["", "application/json", "application/x-npy", "application/x-npz", "a/b"])
_paths = st.sampled_from(["/predict", "/v1/models/model:predict", "/predict?signature=x", "/ready"])


class Fuzzer:
    """Sends requests and judges what comes back."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.seen: Counter[str] = Counter()

    def check(self, what: str, status: int, detail: object) -> None:
        self.seen[f"{what} {status}"] += 1
        assert status != 500, (what, detail)
        assert self.service.process.poll() is None, (what, detail)

    def proper(self, path: str, kind: str, name: str, body: bytes) -> None:
        """Send a request that is proper HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=SECONDS)
        try:
            connection.request("POST", path, body, {"content-type": kind})
            response = connection.getresponse()
            json.loads(response.read()) if response.status != 200 else response.read()
            self.check(name, response.status, (path, kind, body[:200]))
        finally:
            connection.close()

    def raw(self, sent: bytes, *, leave: bool = True) -> None:
        """Send anything at all; `leave`: go before the answer, as a client that closes does."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.service.port), SECONDS) as connection:
            # The service may have answered, closed or reset by now; a time-out is a failure.
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
            if leave:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                answer = connection.recv(65536)
        status = int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
        self.check("raw", status, sent[:200])


def fuzz(fuzzer: Fuzzer, examples: int) -> None:
    """Make and send the requests; an AssertionError tells the one that fails."""
    profile = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    whole = npy(np.zeros((1, 224, 224, 3), np.float32))
    head = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-type: application/x-npy\r\n"
    request = head + b"content-length: %d\r\n\r\n" % len(whole) + whole

    @profile
    @given(name=st.sampled_from(sorted(_bodies)), data=st.data(), path=_paths, kind=_kinds)
    def proper(name: str, data: st.DataObject, path: str, kind: str) -> None:
        fuzzer.proper(path, kind, name, data.draw(_bodies[name]))

    @profile
    @given(at=st.integers(0, 300), noise=st.binary(max_size=20), cut=st.booleans())
    def damaged(at: int, noise: bytes, *, cut: bool) -> None:
        fuzzer.raw(request[:at] + noise + (b"" if cut else request[at + len(noise) :]), leave=cut)

    @profile
    @given(st.binary(max_size=500))
    def anything(sent: bytes) -> None:
        fuzzer.raw(sent)

    for part in (proper, damaged, anything):
        part()


def main() -> int:
    """Run it and write `results/fuzz.json`; BACKEND and other settings reach the service."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--examples", type=int, default=3000, help="of each of three kinds")
    parser.add_argument("--name", default="fuzz", help="of the result")
    options = parser.parse_args()
    limits = {"READ_SECONDS": "1", "WRITE_SECONDS": "5"}
    with serving(options.python, options.model, **limits) as service:
        fuzzer = Fuzzer(service)
        failed = ""
        try:
            fuzz(fuzzer, options.examples)
        except (AssertionError, OSError, ValueError) as error:
            failed = repr(error)
        tracebacks = sum("Traceback" in line for line in service.stderr)
    result: dict[str, object] = {
        "verdict": "failed" if failed or tracebacks else "passed",
        "failed": failed,
        "tracebacks": tracebacks,
        "answers (0: closed without one)": dict(sorted(fuzzer.seen.items())),
        "examples of each kind": options.examples,
        "backend": os.environ.get("BACKEND", "tensorflow"),
        "tensorflow": service.ready["tensorflow"],
        "model": options.model.name,
        "machine": machine(),
        "note": options.note,
    }
    write(f"{options.name}.json", result)
    return 1 if result["verdict"] == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
