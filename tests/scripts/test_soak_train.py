"""What the soak of a training run concludes from its samples, and what it reads of a process."""

import os

import pytest
from script_modules import SCRIPTS, load

soak = load("soak_train", SCRIPTS)


def samples(rates, memory, compiled):
    """One sample a minute; ``rates`` are env steps per second of processor time, of which each minute has thirty."""
    found = [soak.Sample(0.0, 0, 0.0, memory[0], compiled[0])]
    for minute, (rate, mib, programs) in enumerate(zip(rates, memory[1:], compiled[1:], strict=True), 1):
        found.append(soak.Sample(60.0 * minute, found[-1].step + rate * 30, 30.0 * minute, mib, programs))
    return found


def test_a_steady_run():
    # One disturbed minute moves neither the trend nor the usual throughput.
    judged = soak.judge(samples([40, 40, 3, 40, 40], [1000.0] * 5 + [1010.0], [7] * 6))
    assert judged["memory_growth"] == pytest.approx(0.01)
    assert judged["env_steps_per_processor_second"] == 40
    assert (judged["throughput_trend"], judged["compiled"], judged["minutes"]) == (0, 0, 5)


def test_a_run_that_slows_down_grows_and_compiles():
    judged = soak.judge(samples([50, 48, 46, 44, 42], [1000.0] * 5 + [1100.0], [7] * 5 + [9]))
    assert judged["throughput_trend"] == pytest.approx(-10 / 46, abs=1e-4)  # two a minute for five minutes, of 46
    assert judged["memory_growth"] == pytest.approx(0.1)  # of the first tenth's median to the last one's
    assert judged["compiled"] == 2


def test_samples_without_progress_say_nothing_of_the_speed():
    still = [soak.Sample(60.0 * n, n // 2 * 1200, 15.0 * n, 1000.0, 7) for n in range(13)]
    assert soak.judge(still)["env_steps_per_processor_second"] == 40
    with pytest.raises(SystemExit, match="1 samples with progress are too few"):
        soak.judge(still[:4])


def test_what_a_process_has_used():
    seconds, memory = soak.used(os.getpid())
    spent = os.times()
    assert seconds == pytest.approx(spent.user + spent.system, abs=0.5)
    assert 10 < memory < 100_000
