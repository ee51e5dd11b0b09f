import gc
import platform
import subprocess
import sys

import pytest

from mbrl.core import heap

# Each of eight threads has memory of its own for a while; glibc says how many arenas that took.
PROGRAM = """
import ctypes, sys, threading
from mbrl.core import heap

told = heap.few_arenas() if sys.argv[1] == "few" else None
libc, barrier = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]

def work():
    libc.malloc(1000)
    barrier.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(told, open(sys.argv[2]).read().count("<heap nr="))
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt, malloc_trim and malloc_info are glibc's")


@glibc
@pytest.mark.parametrize(("how", "told", "most"), [("few", "True", 2), ("many", "None", 100)])
def test_threads_share_arenas(tmp_path, how, told, most):
    command = [sys.executable, "-c", PROGRAM, how, str(tmp_path / "info.xml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, arenas = done.stdout.split()
    assert said == told
    assert (int(arenas) <= 2) == (most == 2)


def test_without_such_a_library_nothing_happens(monkeypatch):
    def none(_):
        raise OSError("no such library")

    monkeypatch.setattr(heap.ctypes, "CDLL", none)
    assert (heap.few_arenas(), heap.hand_back(), heap.keep_freed()) == (False, False, False)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    assert not heap.hand_back()


def test_cycles_are_kept_until_asked_for_or_to_the_end():
    with heap.cycles_kept():
        assert not gc.isenabled()
        with heap.cycles_kept():
            pass
        assert not gc.isenabled()  # the inner block changed nothing
        assert heap.collect_cycles()
        assert gc.isenabled()
        assert not heap.collect_cycles()
    assert gc.isenabled()
    with pytest.raises(KeyError), heap.cycles_kept():
        raise KeyError
    assert gc.isenabled()


def test_who_keeps_cycles_for_good_goes_on_keeping_them():
    gc.disable()
    try:
        with heap.cycles_kept():
            assert not heap.collect_cycles()
        assert not gc.isenabled()
    finally:
        gc.enable()
