import gc

import pytest

from mbrl.core import heap


def test_without_such_a_library_nothing_happens(monkeypatch):
    def none(_):
        raise OSError("no such library")

    monkeypatch.setattr(heap.ctypes, "CDLL", none)
    assert (heap.hand_back(), heap.keep_freed()) == (False, False)
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
