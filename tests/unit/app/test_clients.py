"""Clients that are slow, silent, gone or endless: none may harm another. No TensorFlow."""

from __future__ import annotations

import io
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from served import Server, post, read_all, serving

from tfserve_app.server import _listen
from tfserve_app.settings import Settings

MEGABYTE = 1_000_000


def npy(rows: int) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones((rows, 2), np.float32))
    return stream.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A service with little patience."""
    limits = {"MAX_CONNECTIONS": "8", "MAX_BODY_BYTES": "1000000", "MAX_HELD_BYTES": "2000000"}
    with serving(READ_SECONDS="1", WRITE_SECONDS="1", KEEP_ALIVE_SECONDS="1", **limits) as server:
        server.wait_for("ready")
        yield server


@pytest.fixture(autouse=True)
def _still_serves(server: Server) -> Iterator[None]:
    yield
    assert server.predict().status_code == 200
    assert server.process.poll() is None


# --- slow ---

SLOW = {
    "sends nothing": b"",
    "stops in the first line": b"POST /pre",
    "stops in the head": b"POST /predict HTTP/1.1\r\nhost: t",
    "stops before the body": post(1000),
    "stops in the body": post(1000, b"\x93NUMPY"),
}


def test_requests_that_never_end_get_408_and_others_do_not_wait(server: Server) -> None:
    slow = {what: server.connect() for what in SLOW}
    with server.connect() as dripping:
        for what, connection in slow.items():
            connection.sendall(SLOW[what])
        dripping.sendall(b"GET /health HTTP/1.1\r\n")
        assert server.predict().status_code == 200
        dripping.settimeout(0.1)
        assert drip(dripping).startswith(b"HTTP/1.1 408 ")
        for what, connection in slow.items():
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 408 "), what
            assert b"READ_SECONDS" in answer
            connection.close()


def drip(connection: socket.socket) -> bytes:
    """Send a head that never ends and is never silent, until an answer comes."""
    for _ in range(80):
        try:
            connection.sendall(b"x: y\r\n")
            return connection.recv(1000)
        except TimeoutError:
            continue
    return b""


def test_an_idle_connection_is_closed(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: t\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_client_that_never_takes_its_answer_is_cut_off(server: Server) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(20)
        # Sockets on loopback hold a few MB: several answers, none of them read.
        body = npy(100_000)
        connection.setblocking(False)
        for _ in range(10):
            with_patience(lambda: connection.sendall(post(len(body), body)), 0.5)
        start = time.monotonic()
        while time.monotonic() - start < 15:
            try:
                connection.send(b"\n")
            except BlockingIOError:
                pass
            except OSError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("the connection is still there")


def with_patience(send: object, seconds: float) -> None:
    """Try to send until a socket takes it, or for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            send()  # type: ignore[operator]
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            return
        else:
            return


def test_stalled_uploads_give_way_when_memory_is_short(server: Server) -> None:
    size = MEGABYTE - 1000
    body = npy(size // 8)
    with server.connect() as first, server.connect() as second:
        for stalled in (first, second):
            stalled.sendall(post(size, body[: size - 2000]))
        time.sleep(0.3)
        with server.client() as client:
            kind = {"content-type": "application/x-npy"}
            full = client.post("/predict", content=npy(100_000), headers=kind)
            assert full.status_code == 503, "nobody has stalled for long"
            assert full.headers["retry-after"] == "1"
    # Anew, with patience that lasts longer than the second after which a client counts as stalled.
    limits = {"MAX_BODY_BYTES": "1000000", "MAX_HELD_BYTES": "2000000"}
    with serving(**limits) as patient, patient.connect() as first, patient.connect() as second:
        patient.wait_for("ready")
        for stalled in (first, second):
            stalled.sendall(post(size, body[: size - 2000]))
        time.sleep(1.3)
        with patient.client() as client:
            taken = client.post("/predict", content=npy(60_000), headers=kind)
            assert taken.status_code == 200
        assert read_all(first) == b"", "it was cut off"


# --- gone ---


def test_clients_that_reset_or_close_half(server: Server) -> None:
    for sent in (b"", b"POST /pre", post(1000, b"x"), post(16, npy(1))):
        with server.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert b"HTTP/1.1 500" not in read_all(connection)
        with server.connect() as connection:
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --- endless ---


def test_an_endless_head_gets_431(server: Server) -> None:
    for line in (b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000):
        with server.connect() as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nz: ")
            answer = b""
            try:
                for _ in range(2000):
                    connection.sendall(line)
            except OSError:
                pass
            answer = read_all(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")  # a reset may eat the answer


def test_endless_trailers_are_cut_off(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head + b"2\r\n{}\r\n0\r\n")
        try:
            for _ in range(100_000):
                connection.sendall(b"x: " + b"y" * 1000 + b"\r\n")
        except OSError:
            return
    pytest.fail("100 MB of them were read")


def test_oversized_bodies_are_refused_before_they_are_sent(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(post(MEGABYTE + 1, b"", "expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 "), "and not 100 Continue"
    head = b"POST /predict HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head + b"%x\r\n" % MEGABYTE + b"x" * MEGABYTE + b"\r\n1\r\nx\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_pipelined_requests_are_answered_in_order_and_their_number_is_bounded(
    server: Server,
) -> None:
    request = b"GET /v1/models/%d HTTP/1.1\r\nhost: t\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(b"".join(request % number for number in range(5)))
        answers = read_all(connection)
    places = [answers.index(b"unknown model '%d'" % number) for number in range(5)]
    assert places == sorted(places)
    with server.connect() as connection:
        connection.sendall(request % 1 * 5000)
        assert len(read_all(connection)) < 1_000_000


def test_the_beginning_of_a_next_request_does_not_end_the_answer_before(server: Server) -> None:
    body = b'{"inputs":[[3500,1]]}'
    first = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with server.connect() as connection:
        connection.sendall(first + b"GET /hea")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


def test_silent_connections_make_place_for_a_new_one(server: Server) -> None:
    with serving(MAX_CONNECTIONS="4") as small:
        small.wait_for("ready")
        silent = [small.connect() for _ in range(4)]
        refused = small.predict()
        assert refused.status_code == 503, "nobody has been silent for long"
        assert "MAX_CONNECTIONS" in refused.json()["error"]
        time.sleep(1.2)
        assert small.predict().status_code == 200
        for connection in silent:
            connection.close()


# --- many ---


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm would hold each body back until its head is acknowledged: 40 ms."""
    listener = _listen(Settings(host="127.0.0.1", port=0))
    with listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_beyond_the_queue_503_at_once_and_what_waits_too_long_too() -> None:
    settings = {"MAX_CONCURRENCY": "1", "MAX_QUEUE": "1", "QUEUE_SECONDS": "1"}
    with serving(**settings) as server, ThreadPoolExecutor() as pool:
        server.wait_for("ready")
        running = pool.submit(server.predict, 2500)
        server.wait_for("predicting")
        waiting = pool.submit(server.predict)
        time.sleep(0.3)
        with server.connect() as connection:
            connection.sendall(post(1000))  # the body is not waited for
            assert connection.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert not running.done()
        assert waiting.result().status_code == 503
        assert "no prediction could start within 1 s" in waiting.result().json()["error"]
        assert running.result().status_code == 200


# --- no HTTP at all ---


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # the beginning of TLS
        b"\0" * 100,
        b"GET /h\xc3\xa4 HTTP/1.1\r\n\r\n",
        b"GET /%ff%00%2f HTTP/1.1\r\n\r\n",
        b"CONNECT toy:80 HTTP/1.1\r\nhost: t\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello",
        b"POST /predict HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 9999999999999999999999\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict?" + b"a=1&" * 200 + b" HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_what_is_not_proper_http_is_refused(server: Server, sent: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        answer = read_all(connection)
    assert not answer.startswith(b"HTTP/1.1 5")
