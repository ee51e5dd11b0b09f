"""One run on several devices: which part of the ``TrainState`` lies where, and what each device computes.

A run of one seed splits environments, replay and batches; what learns is on every device (``fsdp`` splits it too), and
each update exchanges the gradients once. A run of several seeds splits the seeds, which exchange nothing. Both come to
the numbers of a single device up to the order of sums.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mbrl.core import parallel
from mbrl.core.cores import cores
from mbrl.core.errors import UserError
from mbrl.core.rows import WIDTH
from mbrl.replay import frames
from mbrl.replay.ring import Address, RingState
from mbrl.runner import fsdp
from mbrl.runner.config import Config
from mbrl.runner.seeds import AXES
from mbrl.runner.state import TrainState

SEEDS = "seeds"
# Trees of these stand in the places of the arrays whose parts they say.
_ALL: Any = PartitionSpec()  # the same on every device
_ROWS: Any = PartitionSpec(parallel.AXIS)  # [N, ...] or [B, ...]
_COLUMNS: Any = PartitionSpec(None, parallel.AXIS)  # [R, N, ...] or [T, B, ...]
_OWN_SEEDS: Any = PartitionSpec(SEEDS)
_RING = RingState(_COLUMNS, _ALL, _ALL)
_BY_SEED = jax.tree.map(lambda axis: _OWN_SEEDS if axis == 0 else _ALL, AXES, is_leaf=lambda x: x is None)


def split_cpu(config: Config[Any]) -> None:
    """Make each core of a CPU a device of its own, for seeds to be split over, unless JAX already sees its devices.

    A seed by itself does not keep two cores busy, and two seeds do. Batches and environments gain nothing by it.
    """
    told = getattr(jax.config, "jax_num_cpu_devices", -1) != -1 or "device_count" in os.environ.get("XLA_FLAGS", "")
    if config.seeds > 1 and config.devices != 1 and not told:
        with contextlib.suppress(RuntimeError):  # what JAX says when it is too late
            jax.config.update("jax_num_cpu_devices", cores())


def mesh(config: Config[Any]) -> Mesh | None:
    """Return the devices a config asks for; None for one.

    Raises:
        UserError: there are not as many, or what should be split over them does not divide.
    """
    present = jax.devices()
    count = _count(config, len(present))
    if not 1 <= count <= len(present):
        raise UserError(
            f"devices must lie between 1 and the {len(present)} that this machine has, or be all or auto, not "
            f"{config.devices}"
        )
    if config.fsdp and (count == 1 or WIDTH % count):
        raise UserError(f"fsdp splits a model over 2, 4, 8, … {WIDTH} devices, and this run has {count}; leave it out")
    if count == 1:
        return None
    _check_divides(config, count)
    return Mesh(np.array(present[:count]), (SEEDS if config.seeds > 1 else parallel.AXIS,))


def check_hosts(config: Config[Any]) -> None:
    """Check that a run on several hosts uses what all of them have.

    Raises:
        UserError: it does not, or trains several seeds, or has its frames in their main memory.
    """
    if config.replay.frames == "host":
        raise UserError("on several hosts replay.frames must be device, not host")
    present = jax.device_count()
    if config.devices not in {"all", present}:
        raise UserError(
            f"on several hosts devices must be all, or the {present} that they have together, not {config.devices}"
        )
    if config.seeds > 1:
        raise UserError(
            f"on several hosts seeds must be 1, not {config.seeds}: seeds exchange nothing, so each host can train its "
            "own by itself"
        )


def _count(config: Config[Any], present: int) -> int:
    """Return how many of the devices a config asks for."""
    if isinstance(config.devices, int):
        return config.devices
    if config.devices == "all":
        return present
    if config.seeds == 1 or jax.default_backend() != "cpu":
        return 1
    return max(count for count in range(1, present + 1) if config.seeds % count == 0)


def _check_divides(config: Config[Any], count: int) -> None:
    if config.seeds > 1:
        if config.seeds % count:
            raise UserError(f"seeds {config.seeds} must be a multiple of devices, {count}")
        return
    groups = math.gcd(config.num_envs, config.replay.batch_size)
    if groups % count:
        raise UserError(
            f"devices is {count}, but num_envs {config.num_envs} and replay.batch_size {config.replay.batch_size} must "
            "both be multiples of it"
        )


def split(mesh: Mesh | None, config: Config[Any], init: Callable[[Any], Any]) -> Any:
    """Return how the state that an agent begins with is split over the devices (see ``fsdp``); None where it is not."""
    if mesh is None or not config.fsdp:
        return None
    return fsdp.shares(jax.eval_shape(init, jax.random.key(0)), mesh.size)


def places(mesh: Mesh | None, config: Config[Any], template: TrainState, split: Any = None) -> TrainState | None:
    """Return the sharding of each leaf of the state, which says its memory too; None leaves all to JAX, on one device.

    Args:
        mesh: of ``mesh``.
        config: the experiment.
        template: the state's shapes.
        split: how the agent's state is split, see ``fsdp``; None where all devices have all of it.
    """
    apart = config.replay.frames == "host"
    if mesh is not None:
        found = shardings(mesh, config, template, split)
    elif apart:
        alone = NamedSharding(Mesh(np.array(jax.local_devices()[:1]), (parallel.AXIS,)), _ALL)
        found = jax.tree.map(lambda _: alone, template)
    else:
        return None
    if not apart:
        return found
    move = lambda framed, place: place.with_memory_kind(frames.KIND) if framed else place
    data = jax.tree.map(move, frames.where(template.replay.data), found.replay.data)
    return found._replace(replay=found.replay._replace(data=data))


def shardings(mesh: Mesh, config: Config[Any], template: TrainState, split: Any = None) -> TrainState:
    """Return where every leaf of the state lies.

    Args:
        mesh: of ``mesh``.
        config: the experiment.
        template: the state's shapes.
        split: how the agent's state is split, see ``fsdp``; None where all devices have all of it.
    """
    if config.seeds > 1:
        specs = _BY_SEED
    else:
        row = lambda leaf: _ROWS if leaf.ndim and leaf.shape[0] == config.num_envs else _ALL
        everywhere = TrainState(*(_ALL for _ in TrainState._fields))
        faults = template.faults._replace(updates=_ALL, physics=_ALL, batch=_COLUMNS)
        specs = everywhere._replace(env=jax.tree.map(row, template.env), replay=_RING, faults=faults)
        specs = specs if split is None else specs._replace(agent=split)
    name = lambda spec, part: jax.tree.map(lambda _: NamedSharding(mesh, spec), part)
    return jax.tree.map(name, specs, template, is_leaf=lambda x: isinstance(x, PartitionSpec))


def over_rows(mesh: Mesh | None, update: Callable[..., Any], split: Any = None) -> Callable[..., Any]:
    """Return ``(agent, key, replay, address) -> (agent, metrics, replay, sequence)`` with each device at its own rows.

    Args:
        mesh: the devices; None leaves the function as it is.
        update: computes that on the rows it is given.
        split: how the agent's state is split, see ``fsdp``; None where all devices have all of it.
    """
    if mesh is None or SEEDS in mesh.axis_names:
        return update
    agent = _ALL if split is None else split
    return jax.shard_map(
        update if split is None else fsdp.updating(update, split),
        mesh=mesh,
        in_specs=(agent, _ALL, _RING, Address(_ROWS, _ROWS)),
        out_specs=(agent, _ALL, _RING, _COLUMNS),
        check_vma=False,  # that all devices come to the same state is what `parallel` sees to
    )


def over_seeds(mesh: Mesh | None, epoch: Callable[..., Any]) -> Callable[..., Any]:
    """Return an epoch of several seeds with each device at its own."""
    if mesh is None or SEEDS not in mesh.axis_names:
        return epoch
    specs = (_BY_SEED, _OWN_SEEDS)
    return jax.shard_map(epoch, mesh=mesh, in_specs=specs[:1], out_specs=specs, check_vma=False)


def evaluate_apart(mesh: Mesh | None, evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Return an evaluation of several seeds, ``[S, ...]`` in and out, that each device does of its own to their end.

    Without that all devices would ask one another at every step whether an episode still goes on anywhere.

    Args:
        mesh: the devices; those of one seed, or None, leave the function as it is.
        evaluate: of agents and keys, as ``seeds.evaluate_seeds`` returns it.
    """
    if mesh is None or SEEDS not in mesh.axis_names:
        return evaluate
    return jax.jit(
        jax.shard_map(evaluate, mesh=mesh, in_specs=_OWN_SEEDS, out_specs=_OWN_SEEDS, check_vma=False)
    )
