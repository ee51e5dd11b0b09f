"""Films in rows: what happened, and below it what was said of it, with the error under each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from mbrl.viz.draw import BLUE, ORANGE, Frames
from mbrl.viz.dream import INK, SOFT, caption, font, picture, png_of, sheet

_TOP, _BAR, _GAP, _EDGE = 28, 22, 8, 10  # pixels: the caption, an error below a picture, between pictures, the border
_TRACK = (228, 231, 235)


class Row(NamedTuple):
    """One row of a film or a strip."""

    name: str
    frames: Frames
    errors: Float[np.ndarray, "T"] | None = None  # shown under each picture, as a bar and a number
    blind: bool = False  # after the context it sees nothing any more: an orange border says so


def moving(rows: Sequence[Row], context: int = 0, unit: str = "") -> Frames:
    """Return the rows one below the other, step by step.

    Args:
        rows: of T pictures each; they may differ in size.
        context: how many steps are seen before a blind row goes on by itself; 0 leaves the caption out.
        unit: of the errors, ``" %"`` perhaps.
    """
    steps = range(len(rows[0].frames))
    return np.stack([_page(rows, [t], context, unit) for t in steps])


def strip(rows: Sequence[Row], context: int, unit: str = "", pictures: int = 8) -> bytes:
    """Return a PNG of a few moments side by side: the last one seen, then evenly on to the end."""
    moments = np.unique(np.linspace(context - 1, len(rows[0].frames) - 1, pictures).astype(int)).tolist()
    from PIL import Image

    return png_of(Image.fromarray(_page(rows, moments, context, unit)))


def _page(rows: Sequence[Row], moments: list[int], context: int, unit: str) -> UInt8[np.ndarray, "H W 3"]:
    width = max(row.frames.shape[2] for row in rows)
    label = int(max(font(18).getlength(row.name) for row in rows))
    label += 2 * _EDGE if label else _GAP
    highs = [row.frames.shape[1] + _GAP + (_BAR if row.errors is not None else 0) for row in rows]
    total = (label + (width + _GAP) * len(moments), (_TOP if context else _GAP) + sum(highs))
    page, pen = sheet(*(side + side % 2 for side in total))  # video codecs want even sides
    most = max([1e-12, *(float(np.nanmax(row.errors)) for row in rows if row.errors is not None and len(row.errors))])
    y = _TOP if context else _GAP
    for row, high in zip(rows, highs, strict=True):
        height, wide = row.frames.shape[1:3]
        pen.text((_EDGE, y + height / 2), row.name, fill=INK, font=font(18), anchor="lm")
        for column, t in enumerate(moments):
            corner = (label + column * (width + _GAP), y)
            page.paste(picture(row.frames[t], ORANGE if row.blind and t >= context else BLUE), corner)
            if row.errors is not None:
                _error(pen, (corner[0], y + height), wide, float(row.errors[t]), most, unit)
        y += high
    for column, t in enumerate(moments if context else ()):
        middle = label + column * (width + _GAP) + width / 2
        pen.text((middle, _TOP / 2), caption(t, context), fill=SOFT, font=font(16), anchor="mm")
    return np.asarray(page)


def _error(pen: Any, corner: tuple[int, int], width: int, error: float, most: float, unit: str) -> None:
    """Draw a bar as long as the error is beside the film's largest one, and its number."""
    left, top = corner[0], corner[1] + 7
    text = f"{error:.3g}{unit}"
    right = left + width - int(font(13).getlength("0.000" + unit)) - 8
    if right > left:  # a narrow picture has room for the number alone
        pen.rectangle((left, top, right, top + 8), fill=_TRACK)
        if error > 0:  # false of NaN, too
            pen.rectangle((left, top, left + round((right - left) * error / most), top + 8), fill=ORANGE)
    pen.text((left + width, top + 4), text, fill=SOFT, font=font(13), anchor="rm")
