"""MLPerf's load generator: its summary is read; without it there is a clear error."""

from __future__ import annotations

import http.server
import importlib.util
import threading
from collections.abc import Iterator

import pytest

from tfslim.bench import loadgen
from tfslim.bench.load import RequestBody
from tfslim.bench.loadgen import parse_summary, run_scenario
from tfslim.bench.stats import quantile
from tfslim.errors import ConfigError, ServiceError

SUMMARY = """
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 57809899
Result is : VALID
  Min duration satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Processed at least 64 queries (116).
 * Would discard 3 highest latency queries.
 * Early stopping 90.0th percentile estimate: 72078848

================================================
Additional Stats
================================================
QPS w/ loadgen overhead         : 19.03

================================================
Test Parameters Used
================================================
target_qps : 100
"""

needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="needs mlcommons-loadgen"
)


def test_a_summary_is_read_as_figures_with_their_units() -> None:
    said = parse_summary(SUMMARY)
    assert (said["valid"], said["early_stopping_met"]) == (True, True)
    assert said["figures"] == {
        "90.0th percentile latency (ns)": 57809899.0,
        "Early stopping 90.0th percentile estimate": 72078848.0,
        "QPS w/ loadgen overhead": 19.03,
    }


def test_a_run_that_loadgen_calls_invalid_is_invalid() -> None:
    said = parse_summary(SUMMARY.replace(": VALID", ": INVALID").replace("satisfied: Yes", ": NO"))
    assert (said["valid"], said["early_stopping_met"]) == (False, None)


def test_our_early_stopping_bound_discards_as_many_as_loadgen_does() -> None:
    values = [float(number) for number in range(116)]
    assert quantile(values, 0.9).value == 116 - 3 - 1  # the largest that is not discarded


def test_without_the_package_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="load generator is not installed") as caught:
        loadgen.check_loadgen()
    assert "pip install 'tfslim[loadgen]'" in caught.value.way_out


@pytest.fixture
def port() -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if body == b"good" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield int(found.server_address[1])
        found.shutdown()


@needs_loadgen
@pytest.mark.parametrize("scenario", loadgen.SCENARIOS)
def test_loadgen_itself_drives_a_service(port: int, scenario: loadgen.Scenario) -> None:
    run = run_scenario(
        scenario,
        subject="mine",
        device="CPU",
        host="127.0.0.1",
        port=port,
        request=RequestBody(b"good", "text/plain", 1),
        seconds=0.5,
        rate=100,
    )
    assert (run.subject, run.scenario) == ("mine", scenario)
    assert run.figures
    assert "0.5 s where MLPerf's rules ask for 600 s" in run.settings
    assert (run.target_rate == 50) is (scenario == "Server")


@needs_loadgen
def test_a_service_that_fails_is_no_result(port: int) -> None:
    with pytest.raises(ServiceError, match="failed in scenario SingleStream") as caught:
        run_scenario(
            "SingleStream",
            subject="mine",
            device="CPU",
            host="127.0.0.1",
            port=port,
            request=RequestBody(b"bad", "text/plain", 1),
            seconds=0.2,
            rate=100,
        )
    assert "status 500" in caught.value.why
