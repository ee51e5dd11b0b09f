"""The picture of the dream: what happened above, what the world model imagined of it below."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mbrl.viz.draw import BLUE, ORANGE, Colour, Frames

PAPER, INK, SOFT = (255, 255, 255), (31, 41, 51), (82, 96, 109)
_LABEL, _GAP, _EDGE = 88, 6, 3  # pixels: the column of names, between pictures, a picture's border
_PALETTE = 12  # pictures of a film, at most, from which its colours are taken


def film_strip(real: Frames, dreamt: Frames, context: int, pictures: int = 6) -> bytes:
    """Return a PNG: real frames above, dreamt ones below; a coloured border says the model no longer sees.

    Args:
        real: T frames.
        dreamt: T frames, the first ``context`` of them seen.
        context: steps the model saw.
        pictures: how many moments are shown: the last one seen, then evenly on to the end.
    """
    moments = np.unique(np.linspace(context - 1, len(real) - 1, min(pictures, len(real))).astype(int)).tolist()
    height, width = real.shape[1:3]
    step_x, step_y, top = width + _GAP, height + _GAP, 28
    page, pen = sheet(_LABEL + step_x * len(moments), top + 2 * step_y)
    for row, (name, frames) in enumerate((("real", real), ("dreamt", dreamt))):
        pen.text((10, top + row * step_y + height / 2), name, fill=INK, font=font(20), anchor="lm")
        for column, moment in enumerate(moments):
            corner = (_LABEL + column * step_x, top + row * step_y)
            page.paste(picture(frames[moment], ORANGE if row and moment >= context else BLUE), corner)
    for column, moment in enumerate(moments):
        middle = _LABEL + column * step_x + width / 2
        pen.text((middle, top / 2), caption(moment, context), fill=SOFT, font=font(17), anchor="mm")
    return png_of(page)


def moving_dream(real: Frames, dreamt: Frames, context: int, milliseconds: int = 90) -> bytes:
    """Return a GIF of the film strip's two rows, one step a picture."""
    height, width = real.shape[1:3]
    top, row = 28, height + _GAP
    sheets = []
    for t in range(len(real)):
        page, pen = sheet(_LABEL + width + _GAP, top + 2 * row)
        for i, (name, frames) in enumerate((("real", real), ("dreamt", dreamt))):
            pen.text((10, top + i * row + height / 2), name, fill=INK, font=font(20), anchor="lm")
            page.paste(picture(frames[t], ORANGE if i and t >= context else BLUE), (_LABEL, top + i * row))
        pen.text((_LABEL + width / 2, top / 2), caption(t, context), fill=SOFT, font=font(16), anchor="mm")
        sheets.append(page)
    return _gif(sheets, [milliseconds] * (len(sheets) - 1) + [900])


def video(frames: Frames, milliseconds: int | list[int] = 40) -> bytes:
    """Return frames as a GIF that repeats; each is shown for so long, or for its own of as many durations."""
    from PIL import Image

    durations = [milliseconds] * len(frames) if isinstance(milliseconds, int) else milliseconds
    return _gif([Image.fromarray(frame) for frame in frames], durations)


def heat(observation: Float[np.ndarray, "T D"], low: np.ndarray, high: np.ndarray, size: int = 160) -> Frames:
    """Return an observation that has no picture as a strip, a row for each dimension, that grows step by step.

    Args:
        observation: T steps.
        low: ``[D]``, what is drawn blue.
        high: ``[D]``, what is drawn orange.
        size: height in pixels.
    """
    steps, rows = observation.shape
    level = np.clip((observation - low) / np.maximum(high - low, 1e-6), 0, 1).T[..., None]  # [D, T, 1]
    low_end, middle, high_end = np.array(BLUE), np.array([247, 248, 250]), np.array(ORANGE)
    colour = np.where(level < 0.5, _mix(low_end, middle, 2 * level), _mix(middle, high_end, 2 * level - 1))
    at = lambda count, pixels: np.arange(pixels) * count // pixels
    width = max(240, steps)
    strip = colour[at(rows, size)][:, at(steps, width)].astype(np.uint8)
    shown = at(steps, width)[None, None, :, None] <= np.arange(steps)[:, None, None, None]
    return np.where(shown, strip, np.uint8(236))


def _mix(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    return start + (end - start) * share


def caption(moment: int, context: int) -> str:
    """Return how far ahead of the last of ``context`` steps seen a moment is, in words."""
    ahead = moment - (context - 1)
    return f"+{ahead} steps" if ahead > 1 else "+1 step" if ahead == 1 else "seen"


def picture(frame: UInt8[np.ndarray, "H W 3"], colour: Colour) -> Any:
    """Return a frame with a border of the given colour."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.ascontiguousarray(frame))
    width, height = image.size
    ImageDraw.Draw(image).rectangle((0, 0, width - 1, height - 1), outline=colour, width=_EDGE)
    return image


def sheet(width: int, height: int) -> tuple[Any, Any]:
    """Return an empty picture and what draws on it."""
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (width, height), PAPER)
    return page, ImageDraw.Draw(page)


def font(size: int) -> Any:
    """Return a font of so many pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def png_of(image: Any) -> bytes:
    """Return a picture as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _gif(images: list[Any], durations: list[int]) -> bytes:
    """Return a GIF, each picture shown for its duration [ms]; one palette for all keeps colours from flickering."""
    from PIL import Image

    every = -(-len(images) // _PALETTE)
    palette = Image.fromarray(np.concatenate([np.asarray(image) for image in images[::-every]])).quantize(128)
    small = [image.quantize(palette=palette, dither=0) for image in images]
    buffer = io.BytesIO()
    small[0].save(buffer, format="GIF", save_all=True, append_images=small[1:], duration=durations, loop=0)
    return buffer.getvalue()
