"""What a waiting person sees."""

import errno
import io
import re
import shlex
import subprocess
import sys
import time

import pytest
from rich.console import Console

from mbrl.core.errors import UserError
from mbrl.runner import live
from mbrl.runner.live import Terminal
from mbrl.runner.reporter import Plain, Reporter, Silent, clock, endure, summary

VALUES = {
    "time/left": 75.2,
    "time/steps_per_second": 153.4,
    "run/updates": 10.0,
    "run/updates_per_step": 0.125,
    "episode/return": 81.26,
    "loss/reward": 0.01234,
    "loss/actor": float("nan"),
    "other": 1.0,
}


def wait_for(stream, pattern):
    """Wait up to five seconds for a reporter's thread to write."""
    for _ in range(500):
        if re.search(pattern, stream.getvalue()):
            return True
        time.sleep(0.01)
    return False


def test_summary_by_hand():
    assert summary(VALUES) == [
        ("left", "1:15"), ("steps/s", "153"), ("updates/step", "0.125"), ("return", "81.3"), ("loss/reward", "0.0123"),
    ]
    assert summary({}) == [("left", "-")]
    assert summary({"loss/reward": 0.0, "run/updates": 0.0}) == [("left", "-")]


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.4, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_plain_lines():
    stream = io.StringIO()
    with Plain(stream) as reporter:
        reporter.phase("compiling")
        reporter.phase("learning")
        reporter.metrics(1000, 20000, VALUES)
        reporter.note("a note")
    assert stream.getvalue() == (
        "compiling ...\n"
        "learning  1,000/20,000 env steps  "
        "left 1:15  steps/s 153  updates/step 0.125  return 81.3  loss/reward 0.0123\n"
        "a note\n"
    )


def test_a_full_disk_below_the_output_costs_lines_alone():
    class Full(io.StringIO):
        full = False

        def flush(self):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")

    stream = Full()
    with Plain(stream, heartbeat=0.01) as reporter:
        stream.full = True
        reporter.note("lost, perhaps")
        time.sleep(0.05)
        stream.full = False
        reporter.note("there")
        assert wait_for(stream, r"(?s)there.*starting \.\.\.")  # its thread lives


def test_a_reader_that_has_gone_ends_no_run():
    code = (
        "from mbrl.runner.reporter import Plain\n"
        "import sys, time\n"
        "with Plain() as told:\n"
        "    for _ in range(50):\n"
        "        told.note('x'); time.sleep(.01)\n"
        "print('the end', file=sys.stderr)\n"
    )
    words = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "the end\n")


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self):
        self.notes = []

    def note(self, line):
        self.notes.append(line)


def test_what_a_write_says_is_told_and_endured():
    told = Notes()

    def refuse(error):
        raise error

    for error in (OSError(28, "No space left on device", "x/metrics.jsonl"), UserError("step 8 could not be saved")):
        endure(told, lambda error=error: refuse(error))
    end = "; training goes on and tries again"
    assert told.notes == [
        f"warning: x/metrics.jsonl: No space left on device{end}", f"warning: step 8 could not be saved{end}",
    ]
    with pytest.raises(ZeroDivisionError):
        endure(told, lambda: refuse(ZeroDivisionError()))


def test_plain_heartbeat_while_nothing_is_heard():
    stream = io.StringIO()
    with Plain(stream, heartbeat=0.02) as reporter:
        reporter.phase("compiling")
        assert wait_for(stream, r"compiling \.\.\. \d+ s\n")
    written = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == written  # the thread ended with the run


def test_no_heartbeat_while_there_is_news():
    stream = io.StringIO()
    with Plain(stream, heartbeat=60.0) as reporter:
        reporter.phase("learning")
    assert stream.getvalue() == ""


def test_terminal_moves_by_itself_and_shows_the_figures():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with Terminal(console) as reporter:
        reporter.phase("compiling")
        assert wait_for(stream, "compiling")
        drawn = len(stream.getvalue())
        assert wait_for(stream, f"(?s).{{{drawn + 1}}}")  # the spinner, without another word from the run
        reporter.phase("learning")
        reporter.metrics(1000, 20000, VALUES | {"eval/return_mean": 900.0})
        reporter.metrics(2000, 20000, VALUES)
        reporter.note("a [note]")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    for shown in ("learning", "2,000/20,000 env steps", "return 81.3", "evaluation 900.0", "reward 0.0123", "a [note]"):
        assert shown in text


def test_reporter_is_chosen_by_the_output(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for terminal, kind in ((True, Terminal), (False, Plain)):
        monkeypatch.setattr(live, "Console", lambda is_one=terminal: Console(file=io.StringIO(), force_terminal=is_one))
        assert isinstance(live.make_reporter(), kind)


def test_silence():
    with Silent() as reporter:
        assert isinstance(reporter, Reporter)
        reporter.phase("learning")
        reporter.metrics(1, 2, VALUES)
        reporter.note("nothing")
