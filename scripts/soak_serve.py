"""Loads `mbrl serve RUN_DIR` with many sessions for a long time, and says whether its memory stays as it is.

    python scripts/soak_serve.py RUN_DIR --sessions 1000 --minutes 10 --rate 0.5

Exit code 0: memory grew by less than `--growth` of itself after the first fifth of the time, nothing was refused, and
sessions that saw the same had the same answers.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def resident(pid: int) -> float:
    """Return a process's memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def start(run_dir: str, sessions: int) -> tuple[subprocess.Popen, str]:
    """Start a server on a free port and return it and its address, when it answers."""
    command = [sys.executable, "-m", "mbrl", "serve", run_dir, "--port", "0", "--max_sessions", str(sessions)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in server.stdout or ():
        if found := re.search(r"serving on (\S+);", line):
            return server, found[1]
    raise SystemExit(f"the server ended with {server.wait()} before it answered")


def load(url: str, sessions: int, seconds: float, rate: float) -> dict:
    """Load the server from another process and return what that measured."""
    command = [sys.executable, "-m", "mbrl.bench.load", url, "--sessions", str(sessions), "--seconds", str(seconds)]
    done = subprocess.run([*command, "--rate", str(rate)], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def main() -> int:
    """Soak, and print a line for each tenth of the time and one for all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=0.5, help="acts a second of each session; 0 for all they can")
    parser.add_argument("--growth", type=float, default=0.02, help="of memory, as a share, that is still flat")
    told = parser.parse_args()
    server, url = start(told.run_dir, told.sessions)
    rows, memory = [], []
    try:
        say(f"{url}: {told.sessions} sessions, {told.minutes:g} minutes; {resident(server.pid):.1f} MiB before")
        for part in range(10):
            # Each part has sessions of its own: beginning and ending them is part of the load.
            row = load(url, told.sessions, told.minutes * 6, told.rate)
            memory.append(resident(server.pid))
            rows.append(row)
            say(f"{part + 1:2d}/10 {memory[-1]:8.1f} MiB  {json.dumps(row)}")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    growth = memory[-1] / memory[1] - 1
    refused = sum(row["refused"] for row in rows)
    strange = sum(row["strange"] for row in rows)
    p99 = [row["p99_ms"] for row in rows]
    say(json.dumps({
        "acts": sum(row["acts"] for row in rows), "refused": refused, "strange": strange,
        "memory_mib": round(memory[-1], 1),
        "memory_growth": round(growth, 4), "p99_ms_first": p99[1], "p99_ms_last": p99[-1], "server_exit": code,
        "cores": len(os.sched_getaffinity(0)),
    }))
    fine = growth < told.growth and refused == strange == 0 and code == 128 + signal.SIGTERM
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
