"""Metrics on the disk."""

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from mbrl.runner.loggers import MetricsLog, read_metrics
from mbrl.runner.rundir import RunDir


def events(run):
    """TensorBoard's records, in the order of their files: length, its checksum, data, its checksum."""
    found = []
    for path in sorted(run.tensorboard.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


def test_lines(run):
    with MetricsLog(run) as log:
        log.write(8, {"a": 1.5, "b": float("nan"), "c": float("inf"), "d": None, "n": 3})
        assert run.metrics.read_text() == '{"step": 8, "a": 1.5, "b": null, "c": null, "d": null, "n": 3}\n'
    assert read_metrics(run) == [{"step": 8, "a": 1.5, "b": None, "c": None, "d": None, "n": 3}]
    scalars = [(e.step, v.tag, v.simple_value) for e in events(run) for v in e.summary.value]
    assert scalars == [(8, "a", 1.5), (8, "n", 3.0)]


def test_resume_drops_later_and_torn_lines(run):
    with MetricsLog(run) as log:
        for step in (8, 16, 24):
            log.write(step, {"x": 0.1 * step})
    kept = run.metrics.read_bytes().splitlines(keepends=True)[:2]
    with run.metrics.open("a") as file:
        file.write('{"step": 32, "x": 0.')
    with MetricsLog(run, 16):
        assert run.metrics.read_bytes() == b"".join(kept)
    starts = [e.step for e in events(run) if e.HasField("session_log")]
    assert starts == [17]


def test_resume_of_a_run_without_lines(run):
    with MetricsLog(run, 0) as log:
        log.write(8, {})
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [{"step": 8}]


def test_reading_passes_over_what_is_no_line(run):
    assert read_metrics(run) == []
    run.metrics.write_text('{"step": 1}\n[]\n{"x": 1}\n{"step": "2"}\n{"step": 3, "x"')
    assert read_metrics(run) == [{"step": 1}]
