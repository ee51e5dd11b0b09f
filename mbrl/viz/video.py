"""Frames to a file's bytes: MP4 where there is an ffmpeg, GIF anywhere."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.viz.draw import Frames
from mbrl.viz.dream import video

KINDS = (".gif", ".mp4")
FASTEST = 50.0  # pictures a second, of a film; viewers slow down a GIF that is faster
_TICK = 10  # ms, of a GIF's clock


def find_ffmpeg() -> str | None:
    """Return the path of an ffmpeg: that of ``imageio-ffmpeg``, which ``mbrl[video]`` brings, or the system's.

    None where there is none, or only one that was built without H.264.
    """
    path = _program()
    if path is None:
        return None
    listed = subprocess.run([path, "-v", "error", "-encoders"], capture_output=True, text=True, check=False)
    return path if "libx264" in listed.stdout else None


def _program() -> str | None:
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        package: Any = importlib.import_module("imageio_ffmpeg")
        with contextlib.suppress(RuntimeError):  # the package without the program
            return package.get_ffmpeg_exe()
    return shutil.which("ffmpeg")


def thin(fps: float) -> int:
    """Return that every how many-th picture of ``fps`` a second is to be kept so that a film can show them in time."""
    return max(1, math.ceil(fps / FASTEST))


def _durations(count: int, fps: float) -> list[int]:
    """Return for how long each picture of a GIF is shown [ms]: whole ticks, late by half a tick at most."""
    ends = np.round(np.arange(count + 1) * (1000 / _TICK / fps)).astype(int)
    return (np.diff(ends) * _TICK).tolist()


def encode(frames: Frames, kind: str, fps: float) -> bytes:
    """Return frames as a film.

    Args:
        frames: T pictures; the sides of an MP4's are even.
        kind: one of ``KINDS``; ``".mp4"`` needs an ffmpeg.
        fps: pictures a second, at most ``FASTEST``.
    """
    if kind == ".gif":
        return video(frames, _durations(len(frames), fps))
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    # What every player can show; the index at the front, so that it plays while it loads.
    mp4 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"  # ffmpeg goes back to the start of an MP4, which a pipe cannot
        command = [str(find_ffmpeg()), "-v", "error", *raw, *mp4, str(path)]
        subprocess.run(command, input=frames.tobytes(), check=True)
        return path.read_bytes()
