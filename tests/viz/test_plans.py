"""Figures of plans."""

import io

import numpy as np
from PIL import Image

from mbrl.viz import plans


def size(image):
    return Image.open(io.BytesIO(image)).size


def test_a_fan_has_a_panel_for_each_number():
    rng = np.random.default_rng(0)
    draw = lambda numbers: plans.fan(rng.normal(size=(5, 4, numbers)), np.full(5, 0.2), rng.normal(size=(5, 2)), [0, 1])
    assert size(draw(1))[0] < size(draw(3))[0] == size(draw(3))[0]
    assert size(draw(6)) == size(draw(9))


def test_a_trees_parents_stand_amid_their_children():
    parent = np.array([-1, 0, 0, 1, 1, 0])
    there = np.array([0, 1, 2, 3, 4])
    assert plans._places(parent, there) == {0: 1.25, 1: 0.5, 2: 2.0, 3: 0.0, 4: 1.0}
    image = plans.tree(parent, [0, 1, 1, 2, 2, 1], [1, 0.6, 0.4, 0.3, 0.3, 0], np.arange(6), [1, 1, 1, 1, 1, 0])
    assert size(image)[0] > size(image)[1]
