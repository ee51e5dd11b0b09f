"""Films in rows, pixel by pixel where it matters, and their files."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from mbrl.viz import film, video
from mbrl.viz.draw import BLUE, ORANGE
from mbrl.viz.film import Row


def shade(level, count=4, height=40, width=60):
    return np.full((count, height, width, 3), level, np.uint8)


def rows():
    errors = np.array([0.0, 1.0, 2.0, np.nan])
    return [Row("real", shade(40)), Row("dreamt", shade(200), errors, blind=True)]


def test_rows_stand_one_below_the_other_and_the_blind_one_turns_orange():
    frames = film.moving(rows(), context=2)
    assert frames.dtype == np.uint8
    assert all(side % 2 == 0 for side in frames.shape[1:3])
    left = next(x for x in range(frames.shape[2]) if tuple(frames[0, 28, x]) == BLUE)
    second = 28 + 40 + film._GAP
    for t in range(4):
        assert tuple(frames[t, 28 + 20, left + 30]) == (40, 40, 40)
        assert tuple(frames[t, second + 20, left + 30]) == (200, 200, 200)
        assert tuple(frames[t, second, left]) == (ORANGE if t >= 2 else BLUE)


def test_the_bar_below_a_picture_is_as_long_as_the_error():
    frames = film.moving([Row("dreamt", shade(200, width=120), np.array([0.0, 1.0, 2.0, np.nan]))])
    below = frames[:, film._GAP + 40 + 11]  # the bars' middle
    long = (below == ORANGE).all(axis=-1).sum(axis=-1)
    track = (below == film._TRACK).all(axis=-1).sum(axis=-1)
    assert long[0] == long[3] == 0
    assert long[2] == pytest.approx(2 * long[1], abs=2)
    assert track[2] == 0
    assert track[0] == pytest.approx(long[2], abs=1)


def test_a_strip_shows_the_last_step_seen_and_the_end():
    with Image.open(io.BytesIO(film.strip(rows(), context=2, unit=" %", pictures=2))) as image:
        assert image.format == "PNG"
        wide = image.size[0]
    with Image.open(io.BytesIO(film.strip(rows(), context=2, pictures=1))) as image:
        assert wide - image.size[0] == 60 + film._GAP


def test_a_narrow_picture_has_its_number_alone():
    frames = film.moving([Row("", shade(9, width=20), np.ones(4))], unit=" std")
    assert not (frames == film._TRACK).all(axis=-1).any()
    assert (frames[:, film._GAP + 40 :] < 200).any()  # ink


def test_rows_may_differ_in_size():
    frames = film.moving([Row("", shade(9, width=90)), Row("", shade(7, height=20))])
    assert frames.shape[1:3] == (20 + 40 + 3 * film._GAP, 90 + 2 * film._GAP)


@pytest.mark.parametrize(("fps", "every"), [(20.0, 1), (50.0, 1), (50.1, 2), (125.0, 3)])
def test_no_film_is_faster_than_can_be_shown(fps, every):
    assert video.thin(fps) == every


def test_a_gif_keeps_time():
    with Image.open(io.BytesIO(video.encode(film.moving(rows()), ".gif", 25.0))) as image:
        assert (image.format, image.n_frames, image.info["duration"]) == ("GIF", 4, 40)


@pytest.mark.parametrize("fps", [1 / 0.024, 1 / 0.025, 30.0, 45.5, 7.0])
def test_a_gif_whose_steps_are_no_whole_ticks_keeps_time_all_the_same(fps):
    pictures = np.zeros((30, 8, 8, 3), np.uint8)
    for t, picture in enumerate(pictures):  # all differ: those alike would be shown as one
        picture[t // 8, t % 8] = 255
    shown = []
    with Image.open(io.BytesIO(video.encode(pictures, ".gif", fps))) as image:
        for t in range(image.n_frames):
            image.seek(t)
            shown.append(image.info["duration"])
    assert len(shown) == 30
    np.testing.assert_allclose(np.cumsum(shown), np.arange(1, 31) * 1000 / fps, atol=5.001)
    assert min(shown) >= 20


def test_an_mp4_has_its_pictures(tmp_path):
    ffmpeg = video.find_ffmpeg()
    if ffmpeg is None:
        pytest.skip("there is no ffmpeg")
    level = np.linspace(0, 250, 6).astype(np.uint8)[:, None, None, None]
    (tmp_path / "film.mp4").write_bytes(video.encode(np.broadcast_to(level, (6, 32, 48, 3)), ".mp4", 12.5))
    raw = [ffmpeg, "-v", "error", "-i", str(tmp_path / "film.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    back = np.frombuffer(subprocess.run(raw, check=True, capture_output=True).stdout, np.uint8).reshape(-1, 32, 48, 3)
    np.testing.assert_allclose(back[:, 16, 24, 0], level[:, 0, 0, 0], atol=6)


def test_without_a_package_the_systems_ffmpeg_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda _: None)
    program = tmp_path / "ffmpeg"
    monkeypatch.setattr(video.shutil, "which", lambda name: str(tmp_path / name))
    for encoder, found in (("libx264", str(program)), ("mpeg4", None)):  # it must be able to write H.264
        program.write_text(f"#!/bin/sh\necho ' V..... {encoder}'\n")
        program.chmod(0o755)
        assert video.find_ffmpeg() == found
