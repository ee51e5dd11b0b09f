"""Metrics on the disk."""

import json
import resource
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from mbrl.runner.events import Events
from mbrl.runner.loggers import MetricsLog, read_metrics, scan_metrics
from mbrl.runner.rundir import RunDir


def events(run):
    """TensorBoard's records, in the order of their files: length, its checksum, data, its checksum."""
    paths = sorted(run.tensorboard.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    return [Event.FromString(record) for path in paths for record in records(path)]


def records(path):
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield content[12 : 12 + length]
        content = content[16 + length :]


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
    with MetricsLog(run, 16) as log:
        assert run.metrics.read_bytes() == b"".join(kept)
        log.write(24, {"x": 1})
    starts = [e.step for e in events(run) if e.HasField("session_log")]
    assert starts == [17]


def test_a_flipped_byte_costs_its_line(run):
    run.metrics.write_bytes(b'{"step": 8, "x": 1}\n{"step": 16\xff "x": 2}\n{"step": 24, "x": 3}\n')
    with MetricsLog(run, 24):
        pass
    assert [line["step"] for line in read_metrics(run)] == [8, 24]


def test_resume_of_a_run_without_lines(run):
    with MetricsLog(run, 0) as log:
        log.write(8, {})
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [{"step": 8}]


@pytest.fixture
def full_disk(run):
    """From a line on, the kernel refuses to let any file grow, as a full disk would; returns what makes room again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.metrics.stat().st_size + 10, before[1]))

    def empty():
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    yield fill, empty
    empty()


def test_what_a_full_disk_refuses_comes_later(run, full_disk):
    fill, empty = full_disk
    with MetricsLog(run) as log:
        log.write(8, {"x": 1})
        log.sync()
        fill()
        for step in (16, 24):
            with pytest.raises(OSError, match="File too large"):
                log.write(step, {"x": 2})
            assert run.metrics.read_text() == '{"step": 8, "x": 1}\n'
        with pytest.raises(OSError, match=r"File too large.*metrics\.jsonl"):
            log.sync()
        empty()
        log.write(32, {"x": 3})
    assert [line["step"] for line in read_metrics(run)] == [8, 16, 24, 32]
    assert [e.step for e in events(run) for _ in e.summary.value] == [8, 32]


def test_a_disk_that_is_full_at_the_end_is_told_with_the_files_name(run, full_disk):
    fill, _ = full_disk
    log = MetricsLog(run)
    log.write(8, {"x": 1})
    fill()
    with pytest.raises(OSError, match=r"File too large.*metrics\.jsonl"), log:
        log.write(16, {"x": 2})


def test_a_save_needs_the_lines_and_not_tensorboards_copy(run, monkeypatch):
    def refusing(verb):
        def full(log):
            verb(log)
            raise OSError(28, "No space left on device")

        return full

    for verb in (Events.flush, Events.close):
        monkeypatch.setattr(Events, verb.__name__, refusing(verb))
    with MetricsLog(run) as log:
        log.write(8, {"x": 1})
        log.sync()
    assert read_metrics(run) == [{"step": 8, "x": 1}]


def test_events_that_a_full_disk_cuts_short_do_not_hide_later_ones(run, full_disk):
    """The buffered record reaches the disk in part when it is flushed; what follows begins a file of its own."""
    fill, empty = full_disk
    run.metrics.touch()
    log = Events(run.tensorboard, 5)
    log.write(8, {"x": 1})
    log.flush()
    log.write(16, {"x": 2})
    fill()
    with pytest.raises(OSError, match="File too large"):
        log.flush()
    empty()
    log.write(24, {"x": 3})
    log.close()
    _, later = sorted(run.tensorboard.iterdir(), key=lambda path: path.name)
    # That what came before step 5 is void was said by the first file; the second must not take that one's place.
    assert [Event.FromString(record).step for record in records(later)] == [0, 24]


def test_reading_passes_over_what_is_no_line(run):
    assert read_metrics(run) == []
    run.metrics.write_text('{"step": 1}\n[]\n{"x": 1}\n{"step": "2"}\n{"step": 3, "x"')
    assert read_metrics(run) == [{"step": 1}]


@pytest.mark.parametrize("step", ["true", "false", "-1", "1.0", "null", str(2**31), str(2**63), "9" * 5000])
def test_a_step_that_no_run_counts_costs_its_line(run, step):
    run.metrics.write_text(f'{{"step": 0}}\n{{"step": {step}, "x": 1}}\n{{"step": {2**31 - 1}}}\n')
    assert scan_metrics(run) == ([{"step": 0}, {"step": 2**31 - 1}], [2])
    with MetricsLog(run, 2**31 - 1):
        pass
    assert read_metrics(run) == [{"step": 0}, {"step": 2**31 - 1}]
