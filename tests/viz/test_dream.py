"""The dream's pictures and films, pixel by pixel where it matters."""

import io

import numpy as np
import pytest
from PIL import Image

from mbrl.viz import dream
from mbrl.viz.draw import BLUE, ORANGE


def frames(count, shade):
    return np.full((count, 60, 80, 3), shade, np.uint8)


def open_image(content):
    return Image.open(io.BytesIO(content))


def test_the_film_strip_shows_real_above_and_dreamt_below():
    image = open_image(dream.film_strip(frames(9, 40), frames(9, 200), context=3, pictures=4))
    assert image.format == "PNG"
    assert image.size == (dream._LABEL + 4 * (80 + dream._GAP), 28 + 2 * (60 + dream._GAP))
    for column in range(4):
        x = dream._LABEL + column * (80 + dream._GAP)
        assert image.getpixel((x + 40, 28 + 30)) == (40, 40, 40)
        assert image.getpixel((x + 40, 28 + 66 + 30)) == (200, 200, 200)
        assert image.getpixel((x, 28)) == BLUE
        assert image.getpixel((x, 28 + 66)) == (ORANGE if column else BLUE)


@pytest.mark.parametrize(("moment", "caption"), [(0, "seen"), (2, "seen"), (3, "+1 step"), (7, "+5 steps")])
def test_captions_count_from_the_last_step_seen(moment, caption):
    assert dream.caption(moment, 3) == caption


def test_the_moving_dream_has_a_picture_for_each_step_and_repeats():
    real = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.uint8(30) + frames(7, 0)
    image = open_image(dream.moving_dream(real, real, context=2, milliseconds=50))
    assert (image.format, image.n_frames, image.info["loop"]) == ("GIF", 7, 0)
    durations = []
    for t in range(7):
        image.seek(t)
        durations.append(image.info["duration"])
        shade = np.array(image.convert("RGB").getpixel((dream._LABEL + 40, 28 + 30)), int)
        np.testing.assert_allclose(shade, 30 * t, atol=12)
    assert durations == [50] * 6 + [900]


def test_a_video_keeps_its_colours():
    film = np.stack([frames(1, s)[0] for s in (0, 255)])
    film[:, :, :40] = BLUE
    image = open_image(dream.video(film))
    image.seek(1)
    np.testing.assert_allclose(image.convert("RGB").getpixel((10, 10)), BLUE, atol=10)
    assert image.convert("RGB").getpixel((70, 10)) == (255, 255, 255)


def test_a_single_frame_is_a_film_too():
    assert open_image(dream.video(frames(1, 9))).n_frames == 1
    assert open_image(dream.film_strip(frames(1, 9), frames(1, 9), context=1)).format == "PNG"


def test_heat_grows_step_by_step_from_blue_to_orange():
    observation = np.array([[0.0, 5.0], [0.5, 5.0], [1.0, 5.0], [9.0, 5.0]])
    strip = dream.heat(observation, np.zeros(2), np.array([1.0, 10.0]), size=20)
    assert strip.shape == (4, 20, 240, 3)
    last = strip[3]
    np.testing.assert_array_equal(last[5, 30], BLUE)
    np.testing.assert_array_equal(last[5, 90], [247, 248, 250])
    np.testing.assert_array_equal(last[5, 150], ORANGE)
    np.testing.assert_array_equal(last[5, 210], ORANGE)
    np.testing.assert_array_equal(last[15], np.broadcast_to([247, 248, 250], (240, 3)))
    assert (strip[0][:, 60:] == 236).all()
    np.testing.assert_array_equal(strip[0][:, :60], last[:, :60])


@pytest.mark.parametrize("steps", [1, 7, 300])
def test_heat_takes_any_number_of_steps(steps):
    strip = dream.heat(np.zeros((steps, 3)), np.zeros(3), np.zeros(3))
    assert strip.shape == (steps, 160, max(240, steps), 3)
    assert (strip[-1] != 236).any(axis=-1).all()
