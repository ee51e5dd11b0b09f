"""Trains for hours and says whether memory and throughput stay as they are, and whether anything is compiled again.

    python scripts/soak_train.py --minutes 120

All that is not an option here goes to `mbrl train`. Exit code 0: after the first tenth of the time memory grew by less
than `--growth` of itself, nothing was compiled, and env steps per second of processor time fell by less than `--fall`.
Processor time, as other programs take some of the wall clock's; and the trend is the median of the slopes between
all samples (Theil 1950), which a disturbed minute does not move.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from mbrl.runner.loggers import read_metrics
from mbrl.runner.rundir import RunDir

LEAST = 5  # samples with progress


class Sample(NamedTuple):
    """What the run was at one moment."""

    seconds: float  # since its start
    step: int  # env steps in the last metrics
    processor: float  # seconds that it had used by then
    memory: float  # MiB resident
    compiled: int  # programs


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Soak, and print a line for each sample and one for all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="quickstart", help="a name or a file")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--samples", type=int, default=120)
    parser.add_argument("--growth", type=float, default=0.02, help="of memory, as a share, that is still flat")
    parser.add_argument("--fall", type=float, default=0.05, help="of throughput, as a share, that is still flat")
    told, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="mbrl-soak-") as folder:
        run, log = RunDir(Path(folder) / "run"), Path(folder) / "log"
        words = ["-m", "mbrl", "train", told.experiment, "--run_dir", str(run.path), "--steps", "1000000000", *rest]
        environment = os.environ | {"JAX_LOG_COMPILES": "1"}
        with log.open("wb") as file:
            process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=file, env=environment)
        try:
            samples = watch(process, run, log, told.minutes * 60 / told.samples, told.samples)
        finally:
            code = end(process)
    found = judge(samples[len(samples) // 10 :]) | {"exit": code, "cores": len(os.sched_getaffinity(0))}
    say(json.dumps(found))
    fine = found["memory_growth"] < told.growth and found["compiled"] == 0 and -found["throughput_trend"] < told.fall
    return 0 if fine and code == 128 + signal.SIGTERM else 1


def end(process: subprocess.Popen[bytes]) -> int:
    """Let a run save and end, and return its exit code; where that takes minutes it is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def watch(process: subprocess.Popen[bytes], run: RunDir, log: Path, every: float, count: int) -> list[Sample]:
    """Return samples of a run, one each ``every`` seconds; exits with what it said where it ends by itself."""
    begin, samples = time.monotonic(), []
    while len(samples) < count:
        time.sleep(max(begin + every * (len(samples) + 1) - time.monotonic(), 0))
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        step = max((line["step"] for line in read_metrics(run)), default=0) if run.metrics.is_file() else 0
        compiled = log.read_text(errors="replace").count("Finished XLA compilation")
        try:
            samples.append(Sample(time.monotonic() - begin, step, *used(process.pid), compiled))
        except (FileNotFoundError, TypeError):  # it has just ended: the next look says how
            continue
        now = samples[-1]
        say(f"{now.seconds:7.0f} s  {now.step:9,} env steps  {now.processor:7.0f} s of processor time"
            f"  {now.memory:8.1f} MiB  {now.compiled} programs compiled")
    return samples


def used(pid: int) -> tuple[float, float]:
    """Return a process's seconds on processors and its memory in MiB."""
    # The name, in parentheses, may hold anything; user and system time are the 14th and 15th field.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(status.partition("VmRSS:")[2].split()[0]) / 1024


def judge(samples: list[Sample]) -> dict[str, float]:
    """Return growth, trend and what was compiled over these samples."""
    # Metrics come once an epoch: a sample without a new line of them says nothing of the speed.
    moments = [samples[0], *(after for before, after in itertools.pairwise(samples) if after.step > before.step)]
    rates = [
        (after.seconds, (after.step - before.step) / (after.processor - before.processor))
        for before, after in itertools.pairwise(moments)
    ]
    if len(rates) < LEAST:
        raise SystemExit(f"{len(rates)} samples with progress are too few to judge by; take more --minutes")
    slope = statistics.median((b - a) / (t - s) for (s, a), (t, b) in itertools.combinations(rates, 2))
    usual = statistics.median(rate for _, rate in rates)
    passed = samples[-1].seconds - samples[0].seconds
    tenth = max(1, len(samples) // 10)
    first, last = (statistics.median(one.memory for one in part) for part in (samples[:tenth], samples[-tenth:]))
    return {
        "minutes": round(passed / 60, 1),
        "env_steps": samples[-1].step - samples[0].step,
        "memory_mib": round(last, 1),
        "memory_growth": round(last / first - 1, 4),
        "env_steps_per_processor_second": round(usual, 2),
        "throughput_trend": round(slope * passed / usual, 4),
        "compiled": samples[-1].compiled - samples[0].compiled,
    }


if __name__ == "__main__":
    sys.exit(main())
