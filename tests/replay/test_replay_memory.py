import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from mbrl.core.errors import UserError
from mbrl.core.types import Sequence, TimeStep
from mbrl.replay.config import ReplayConfig
from mbrl.replay.memory import available_bytes, bytes_needed, check, check_saving, host_bytes, host_needed, human
from mbrl.replay.ring import Ring

MIB = 2**20


def step(num_envs=2):
    """Per environment 4 + 4 + 4 bytes of time step, 48 of image, 8 of action, 2 of context: 70."""
    floats = jax.ShapeDtypeStruct((num_envs,), jnp.float32)
    observation = {"image": jax.ShapeDtypeStruct((num_envs, 4, 4, 3), jnp.uint8)}
    timestep = TimeStep(jax.ShapeDtypeStruct((num_envs,), jnp.int32), floats, floats, observation)
    action = jax.ShapeDtypeStruct((num_envs, 2), jnp.float32)
    return Sequence(timestep, action, jax.ShapeDtypeStruct((num_envs, 1), jnp.bfloat16))


def config(capacity, batch_length=4):
    return ReplayConfig(capacity=capacity, batch_length=batch_length)


def test_bytes_by_hand_and_as_allocated():
    assert bytes_needed(config(1000), 2, step()) == 1000 * 70
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), step())
    ring = Ring(config(1000), 2).init(zeros)
    assert sum(x.nbytes for x in jax.tree.leaves(ring.data)) == 1000 * 70


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * MIB, "5.0 MiB"), (3 * 2**30, "3.0 GiB"), (2**42, "4.0 TiB")],
)
def test_human(size, text):
    assert human(size) == text


def test_what_fits_is_said():
    # 70,000 bytes = 68.4 KiB; 87,500 bytes = 85.4 KiB, of which 80 % are exactly 70,000.
    assert check(config(1000), 2, step(), 87_500) == "replay: 1,000 steps in 68.4 KiB of the 85.4 KiB available"


def test_what_does_not_fit_is_refused_with_what_would():
    # One byte less: .8 · 87,499 = 69,999 bytes, 499 rows of 140 bytes, 998 steps.
    with pytest.raises(UserError) as error:
        check(config(1000), 2, step(), 87_499)
    assert str(error.value) == (
        "replay.capacity 1000 needs 68.4 KiB, more than the 68.4 KiB it may take of the 85.4 KiB available; "
        "replay.capacity 998 would fit"
    )


def test_frames_on_the_host_are_counted_apart():
    # Of 70 bytes 48 are the image: 48,000 and 22,000 bytes, 46.9 and 21.5 KiB; 27,500 and 60,000 bytes are just enough.
    apart = dataclasses.replace(config(1000), frames="host")
    assert host_needed(apart, 2, step()) == 48_000
    assert host_needed(config(1000), 2, step()) == 0
    assert check(apart, 2, step(), 27_500, 60_000) == (
        "replay: 1,000 steps in 21.5 KiB of the 26.9 KiB available on the device, frames in 46.9 KiB of the 58.6 KiB "
        "available on the host"
    )
    # A CPU's memories are one.
    assert check(apart, 2, step(), 87_500) == (
        "replay: 1,000 steps in 68.4 KiB of the 85.4 KiB available, 46.9 KiB of it frames"
    )
    # One byte less: .8 · 27,499 = 21,999 are 499 rows of 44 bytes; .8 · 59,999 = 47,999 are 499 rows of 96.
    with pytest.raises(UserError, match=r"available on the device; replay.capacity 998 would fit$"):
        check(apart, 2, step(), 27_499, 60_000)
    with pytest.raises(UserError, match=r"available on the host; replay.capacity 998 would fit$"):
        check(apart, 2, step(), 27_500, 59_999)


@pytest.mark.parametrize(("apart", "row"), [(False, 3 * 140), (True, 3 * 140 + 96)])
@pytest.mark.parametrize("available", [10_001, 123_456])
def test_the_capacity_named_is_the_largest_that_can_be_saved(available, apart, row):
    """Two environments' rows are 140 bytes, 96 of them frames, which lie in main memory all the time if apart."""
    asked = dataclasses.replace(config(10**6), frames="host")
    with pytest.raises(UserError) as error:
        check_saving(asked, 2, step(), 3, available, apart=apart)
    assert ("and its frames 4 times" in str(error.value)) == apart
    fits = int(re.search(r"replay.capacity (\d+) would fit", str(error.value))[1])
    assert fits == 2 * (available // row)
    check_saving(dataclasses.replace(asked, capacity=fits), 2, step(), 3, available, apart=apart)


@pytest.mark.parametrize("available", [2_000, 10_001, 123_456])
def test_the_capacity_named_is_the_largest_that_fits(available):
    with pytest.raises(UserError) as error:
        check(config(10**6), 2, step(), available)
    fits = int(re.search(r"replay.capacity (\d+) would fit", str(error.value))[1])
    check(config(fits), 2, step(), available)
    with pytest.raises(UserError, match="would fit"):
        check(config(fits + 2), 2, step(), available)


def test_when_no_capacity_fits():
    # .8 · 800 = 640 bytes are 4 rows of 140; a sequence needs 5 of each of 2 environments.
    with pytest.raises(UserError, match=r"not even the 10 steps of one sequence per environment would fit$"):
        check(config(1000), 2, step(), 800)


def test_the_numbers_are_checked_first():
    with pytest.raises(UserError, match="multiple of num_envs 3"):
        check(config(1000), 3, step(3), 0)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = {"proc/meminfo": "MemTotal:  4096 kB\nMemAvailable:  3072 kB\nHugePages_Total:  0\n"}


def test_host_memory_without_control_groups(tmp_path):
    write(tmp_path, MEMINFO)
    assert host_bytes(tmp_path) == 3 * MIB


def test_host_memory_under_the_tightest_of_nested_groups(tmp_path):
    # The inner group sets no limit, the outer one 2 MiB, of which 1.5 are in use and 1 of these is file cache.
    write(tmp_path, MEMINFO | {
        "proc/self/cgroup": "0::/job/task\n",
        "sys/fs/cgroup/job/task/memory.max": "max\n",
        "sys/fs/cgroup/job/memory.max": f"{2 * MIB}\n",
        "sys/fs/cgroup/job/memory.current": f"{3 * MIB // 2}\n",
        "sys/fs/cgroup/job/memory.stat": f"anon 5\ninactive_file {MIB}\n",
    })
    assert host_bytes(tmp_path) == 3 * MIB // 2


def test_host_memory_under_control_groups_of_version_1(tmp_path):
    write(tmp_path, MEMINFO | {
        "proc/self/cgroup": "4:memory:/job\n3:cpuset:/other\n0::/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{MIB}\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{MIB // 4}\n",
        "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 0\n",
        "sys/fs/cgroup/other/memory.max": "1\n",
    })
    assert host_bytes(tmp_path) == 3 * MIB // 4


def test_a_group_over_its_limit_leaves_nothing(tmp_path):
    write(tmp_path, MEMINFO | {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "10\n",
        "sys/fs/cgroup/memory.current": "20\n",
        "sys/fs/cgroup/memory.stat": "",
    })
    assert host_bytes(tmp_path) == 0


def test_host_memory_elsewhere_is_all_there_is(tmp_path):
    assert host_bytes(tmp_path) > 64 * MIB


class Accelerator:
    def memory_stats(self):
        return {"bytes_limit": 1000, "bytes_in_use": 300}


def test_the_device_is_asked():
    assert available_bytes(Accelerator()) == 700
    assert 0 < available_bytes() < 2**50
