"""How the processes of a run come together, hear of each other and give up; without JAX in between."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mbrl.core.errors import UserError
from mbrl.runner import bond, launch, muster
from mbrl.runner.launch import Address, Launch
from mbrl.runner.reporter import Silent
from mbrl.runner.watchdog import Watched

PATIENCE = 120.0  # seconds


def here():
    return Address("127.0.0.1", muster.free_port("127.0.0.1"))


def called(function, *args):
    """What a function returns, or raises, in a thread of its own."""
    found = []

    def work():
        try:
            found.append(function(*args))
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()

    def result():
        thread.join(PATIENCE)
        return found[0]

    return result


def as_first(place, count, limit, told):
    with muster.listening(place) as server:
        links = muster.receive(server, count, limit)
        muster.tell(links, {"told": told})
        return links


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distributed": "host"}, "'host', but must be auto or HOST:PORT"),
        ({"distributed": "host:0"}, "'host:0', but must be"),
        ({"distributed": ":80"}, "':80', but must be"),
        ({"num_processes": None}, "--distributed h:1 needs --num_processes too"),
        ({"process_id": None}, "needs --process_id too"),
        ({"num_processes": 0}, "--num_processes must be at least 1, not 0"),
        ({"process_id": 2}, "--process_id must be below --num_processes, 2, and at least 0, not 2"),
        ({"process_id": -1}, "not -1"),
        ({"distributed": "auto"}, "--num_processes goes with --distributed HOST:PORT, not auto"),
        ({"distributed": ""}, "--num_processes goes with --distributed, which is not given"),
        ({"stall_limit": 0.0}, "--stall_limit must be positive, not 0.0"),
    ],
)
def test_a_launch_that_is_not_right_is_refused(changes, said):
    with pytest.raises(UserError) as refused:
        launch.check(Launch(**({"distributed": "h:1", "num_processes": 2, "process_id": 1} | changes)))
    assert said in str(refused.value)


def test_addresses():
    assert launch.address("10.0.0.1:7777") == ("10.0.0.1", 7777)
    assert launch.address("[::1]:80") == ("::1", 80)
    assert [str(launch.address(text)) for text in ("h:7", "[::1]:80")] == ["h:7", "[::1]:80"]
    launch.check(Launch())
    launch.check(Launch("auto"))


def test_all_come_and_hear_what_is_trained():
    place = here()
    first = called(as_first, place, 3, PATIENCE, {"steps": 5})
    others = [called(muster.come, place, number, 3, PATIENCE) for number in (2, 1)]
    assert [words for _, words in (other() for other in others)] == [{"told": {"steps": 5}}] * 2
    links = first()
    assert sorted(links) == [1, 2]
    for link in [*links.values(), *(other()[0] for other in others)]:
        link.close()


def test_a_stranger_is_no_process():
    place = here()
    first = called(as_first, place, 2, PATIENCE, {})
    link = muster._link(muster._connected(place, time.monotonic() + PATIENCE, PATIENCE), PATIENCE)
    link.socket.sendall(b"GET / HTTP/1.1\n")
    assert link.hear() is None  # hung up
    link.close()
    for rubbish in (b"[" * 5000 + b"\n", b'{"process": true}\n', b""):
        with socket.create_connection(place) as stranger:
            stranger.sendall(rubbish)
    other = called(muster.come, place, 1, 2, PATIENCE)
    assert sorted(first()) == [1]
    for each in (first()[1], other()[0]):
        each.close()


@pytest.mark.parametrize(
    ("numbers", "counts", "said"),
    [
        ([1], [3], "process 1 was started with --num_processes 3, process 0 with 2"),
        ([1, 1], [3, 3], "two processes were started with --process_id 1; each needs one of its own"),
        ([5], [2], "two processes were started with --process_id 5"),
    ],
)
def test_who_does_not_fit_is_refused_on_both_sides(numbers, counts, said):
    place = here()
    first = called(as_first, place, len(numbers) + 1, PATIENCE, {})
    others = [called(muster.come, place, *who, PATIENCE) for who in zip(numbers, counts, strict=True)]
    assert said in first()
    assert all(said in other() for other in others)


def test_another_version_is_refused():
    place = here()
    first = called(as_first, place, 2, PATIENCE, {})
    link = muster._link(muster._connected(place, time.monotonic() + PATIENCE, PATIENCE), PATIENCE)
    link.say(process=1, of=2, host="old", mbrl="\x1b[2J0.0.0" + 200 * "0", jax="0.0.0")
    said = link.hear()["refused"]
    assert "process 1 has mbrl '\\x1b[2J0.0.000" in said
    assert len(said) < 250
    assert "all need the same version" in first()
    link.close()


def test_who_is_alone_says_so():
    place = here()
    with pytest.raises(UserError, match=r"of 3 processes 1 came within 0.2 s; still missing: 1, 2"):
        as_first(place, 3, 0.2, {})
    with pytest.raises(UserError, match=rf"nothing answered at {place} for 0.2 s .*; process 0 has to run there"):
        muster.come(place, 1, 2, 0.2)


def test_addresses_that_cannot_be():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(UserError, match=r"its port is in use; choose another one"), muster.listening(place):
            pass
        # Something listens there, but it says nothing.
        with pytest.raises(UserError, match=r"is no process 0 that waits for others"):
            deaf(taken, place)
    elsewhere = Address("192.0.2.1", 7777)
    with pytest.raises(UserError, match=r"is no address of this host"), muster.listening(elsewhere):
        pass
    with pytest.raises(UserError, match=r"the host 'no\.such\.host\.invalid', which is not known here"):
        muster.come(Address("no.such.host.invalid", 7777), 1, 2, 5.0)


def deaf(server, place):
    """Go to who accepts and hangs up."""
    accepted = called(lambda: server.accept()[0].close())
    try:
        muster.come(place, 1, 2, PATIENCE)
    finally:
        accepted()


class Ends:
    """Takes the place of a process's end."""

    def __init__(self):
        self.heard = []
        self.over = threading.Event()

    def __call__(self, *words):
        self.heard.append(words)
        self.over.set()


@contextlib.contextmanager
def bonds(count=2, **seconds):
    """The bonds of as many processes, all in this one, and how each ends."""
    pairs = {number: socket.socketpair() for number in range(1, count)}
    link = lambda connection, host: muster.Link(connection, connection.makefile("rb"), host)
    ends = [Ends() for _ in range(count)]
    first = bond.Bond({n: link(pair[0], f"host{n}") for n, pair in pairs.items()}, ends[0], **seconds)
    others = [bond.Bond({0: link(pair[1], "host0")}, ends[n], **seconds) for n, pair in pairs.items()]
    try:
        yield [first, *others], ends, pairs
    finally:
        for each in (first, *others):
            each._over.set()
        for end in (end for pair in pairs.values() for end in pair):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_why_one_ends_all_hear():
    with bonds(3) as (each, ends, _):
        each[1].fail(2, "the folder is taken")
        assert all(end.over.wait(PATIENCE) for end in ends)
        assert [end.heard for end in ends] == [[(2, "the folder is taken")]] * 3
        each[2].fail(1, "later")  # it is over already
        assert len(ends[2].heard) == 1


def test_who_hangs_up_has_died():
    with bonds(3) as (_, ends, pairs):
        pairs[2][1].shutdown(socket.SHUT_RDWR)
        assert ends[0].over.wait(PATIENCE)
        assert ends[1].over.wait(PATIENCE)
        code, sentence = ends[1].heard[0]
        assert code == bond.LOST
        assert sentence.startswith("process 2 on host2 has died, so all others end")


def test_they_part_when_all_are_done():
    with bonds(3) as (each, ends, _):
        done = [called(one.finish) for one in each[:2]]
        time.sleep(0.1)
        each[2].finish()
        assert [one() for one in done] == [None, None]
        assert [end.heard for end in ends] == [[], [], []]


def test_who_is_stopped_is_lost_and_hears_of_it_later():
    """SIGSTOP: alive, connected, and silent."""
    script = Path(__file__).with_name("bonded.py")
    place = here()
    start = lambda number: subprocess.Popen(
        [sys.executable, str(script), str(place), str(number)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    with start(0) as first, start(1) as second:
        try:
            assert first.stdout.readline() == second.stdout.readline() == "bonded\n"
            second.send_signal(signal.SIGSTOP)
            said = first.communicate(timeout=PATIENCE)[1]
            second.send_signal(signal.SIGCONT)
            heard = second.communicate(timeout=PATIENCE)[1]
        finally:
            first.kill()
            second.kill()
    assert (first.returncode, second.returncode) == (bond.LOST, bond.LOST)
    assert said.startswith("mbrl: process 1 on")
    assert "no sign of life for 4 s" in said
    assert heard == said  # it was told while it could not listen


def test_no_progress_ends_the_run_once():
    ends = Ends()
    with Watched(Silent(), 0.05, ends) as reporter:
        reporter.metrics(1, 2, {})
        reporter.phase("learning")
        assert ends.over.wait(PATIENCE)
        time.sleep(0.2)
    assert len(ends.heard) == 1
    assert ends.heard[0][0].startswith("no progress for 0 s (learning), so the run is given up as stuck")


class Heard(Silent):
    """Keeps what it hears."""

    def __init__(self):
        self.words = []

    def phase(self, name):
        self.words.append(name)

    def metrics(self, step, total, values):
        self.words.append((step, total, values))

    def note(self, line):
        self.words.append(line)


def test_progress_is_passed_on_and_counts():
    ends, heard = Ends(), Heard()
    with Watched(heard, 1000.0, ends) as reporter:
        assert reporter._last[0].allowed == 3000.0
        reporter.metrics(1, 2, {"a": 1.0})
        assert reporter._last[0].allowed == 1000.0
        reporter.phase("evaluating")
        assert reporter._last[0].allowed == 1000.0
        reporter.phase("compiling")
        assert reporter._last[0].allowed == 3000.0
        reporter.note("a note")
    assert heard.words == [(1, 2, {"a": 1.0}), "evaluating", "compiling", "a note"]
    assert ends.heard == []
