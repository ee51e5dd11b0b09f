"""Frames to a file's bytes: MP4 where there is an ffmpeg, GIF anywhere."""

from __future__ import annotations

import importlib
import importlib.util
import math
import tempfile
from pathlib import Path
from typing import Any

from mbrl.viz.draw import Frames
from mbrl.viz.dream import video

KINDS = (".gif", ".mp4")
FASTEST = 50.0  # pictures a second, of a film; a GIF's clock ticks in hundredths of a second


def has_ffmpeg() -> bool:
    """Return whether MP4 can be written: ``imageio-ffmpeg``, which ``mbrl[video]`` brings, finds an ffmpeg."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return False
    ffmpeg: Any = importlib.import_module("imageio_ffmpeg")
    try:
        ffmpeg.get_ffmpeg_exe()
    except RuntimeError:  # the package without the program
        return False
    return True


def thin(fps: float) -> int:
    """Return that every how many-th picture of ``fps`` a second is to be kept so that a film can show them in time."""
    return max(1, math.ceil(fps / FASTEST))


def encode(frames: Frames, kind: str, fps: float) -> bytes:
    """Return frames as a film.

    Args:
        frames: T pictures; the sides of an MP4's are even.
        kind: one of ``KINDS``; ``".mp4"`` needs ``has_ffmpeg``.
        fps: pictures a second, at most ``FASTEST``.
    """
    if kind == ".gif":
        return video(frames, max(20, round(1000 / fps)))
    ffmpeg: Any = importlib.import_module("imageio_ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"  # ffmpeg goes back to the start of an MP4, which a pipe cannot
        height, width = frames.shape[1:3]
        writer = ffmpeg.write_frames(
            str(path), (width, height), fps=fps, quality=7, macro_block_size=2, ffmpeg_log_level="error"
        )
        writer.send(None)
        for frame in frames:
            writer.send(frame.tobytes())
        writer.close()
        return path.read_bytes()
