import pytest

from mbrl.core.errors import UserError
from mbrl.replay.config import ReplayConfig, check_sizes
from mbrl.replay.ring import Ring

GOOD = {"capacity": 100, "batch_size": 4, "batch_length": 9, "recent_fraction": 0.5}


@pytest.mark.parametrize(("capacity", "num_envs", "length"), [(100, 10, 9), (100, 1, 99), (2, 1, 1)])
def test_what_fits_passes(capacity, num_envs, length):
    check_sizes(ReplayConfig(**GOOD | {"capacity": capacity, "batch_length": length}), num_envs)


@pytest.mark.parametrize(
    ("changes", "num_envs", "sentence"),
    [
        ({"capacity": 0}, 1, "replay.capacity must be at least 1, not 0"),
        ({"batch_size": -2}, 1, "replay.batch_size must be at least 1, not -2"),
        ({"batch_length": 0}, 1, "replay.batch_length must be at least 1, not 0"),
        ({}, 0, "num_envs must be at least 1, not 0"),
        ({"recent_fraction": 1.5}, 1, "replay.recent_fraction must lie between 0 and 1, not be 1.5"),
        ({"recent_fraction": float("nan")}, 1, "replay.recent_fraction must lie between 0 and 1, not be nan"),
        # 100 = 14·7 + 2: 98 is nearer than 105. 103 = 14·7 + 5: 105 is nearer. 3 < 7: never 0.
        ({}, 7, "replay.capacity 100 must be a multiple of num_envs 7; the nearest is 98"),
        ({"capacity": 103}, 7, "replay.capacity 103 must be a multiple of num_envs 7; the nearest is 105"),
        ({"capacity": 3}, 7, "replay.capacity 3 must be a multiple of num_envs 7; the nearest is 7"),
        # 100 / 10 = 10 rows hold 9 + 1 steps, not 10 + 1.
        (
            {"batch_length": 10},
            10,
            "replay.batch_length 10 needs 11 steps of one environment but replay.capacity 100 keeps 10 of each of 10; "
            "a capacity of at least 110, or a batch_length of at most 9, would do",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes, num_envs, sentence):
    with pytest.raises(UserError) as error:
        check_sizes(ReplayConfig(**GOOD | changes), num_envs)
    assert str(error.value) == sentence


def test_a_ring_is_checked_when_it_is_made():
    with pytest.raises(UserError, match="batch_length"):
        Ring(ReplayConfig(capacity=8, batch_length=8), num_envs=1)
