"""One run on several hosts: what the host's side of a run needs so that all processes stay in step.

Every process runs the same loop over the same global state. Process 0 alone reads and writes the run's folder and
evaluates; whatever it alone knows, and the others need, passes through here. On one host all of it is nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mbrl.core.errors import UserError, of_disk
from mbrl.runner import leaves, muster
from mbrl.runner.bond import LOST, Bond, leave
from mbrl.runner.launch import AUTO, Address, Launch, address, check
from mbrl.runner.reporter import Reporter, Silent
from mbrl.runner.stop import Interrupted, RunFailedError
from mbrl.runner.watchdog import Watched

# Bytes that pass between hosts at once: more would take memory on the device, less is slower.
_PIECE = 64 * 2**20
_NAME_BYTES = 256
_VERDICT_SECONDS = 5.0


class Together(NamedTuple):
    """What a process has once all have come."""

    told: dict[str, Any]  # what process 0 says of the run
    bond: Bond
    stall_limit: float

    def reporter(self, reporter: Reporter) -> Reporter:
        """Return process 0's reporter, and for the others one that is silent; both watch that there is progress."""
        stuck = lambda sentence: self.bond.fail(LOST, sentence)
        return Watched(reporter if first() else Silent(), self.stall_limit, stuck)


def first() -> bool:
    """Whether this process is the one that reads and writes the run's folder; of a single process it is true."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether the run is on several processes."""
    return jax.process_count() > 1


@contextlib.contextmanager
def join(launch: Launch, tell: Callable[[], dict[str, Any]]) -> Iterator[Together]:
    """Bring all processes of a launch together, make JAX see all their devices, and let them end together.

    Nothing may have used a device before. A process that leaves for a reason of its own ends at once, without JAX's
    farewell, which would wait for the others; before that it tells them, and they end with the same sentence and exit
    code. So this returns, or raises, only where all processes do: done, ``Interrupted`` or ``RunFailedError``.

    Args:
        launch: how this process was started.
        tell: called in process 0 alone: what it says of the run to all.

    Raises:
        UserError: the launch is not right, or not all come; nothing was started.
    """
    check(launch)
    try:
        told, bond = _automatic(launch, tell) if launch.distributed == AUTO else _explicit(launch, tell)
    except BaseException as error:
        # Before there is a bond nobody can be told; what matters is not to wait for them in JAX's farewell.
        if jax.distributed.is_initialized():
            leave(*_reason(error))
        raise
    try:
        _check_devices()
        yield Together(told, bond, launch.stall_limit)
    except (Interrupted, RunFailedError):  # decided by all, so all come here
        bond.finish()
        raise
    except BaseException as error:
        if bond.alone:
            raise
        bond.fail(*_reason(error))
        threading.Event().wait()  # another thread, which was first, is about to end the process
    else:
        bond.finish()


def _check_devices() -> None:
    """Raise UserError, in every process, where they have not as many devices each, as JAX's exchanges need."""
    counts = Counter(device.process_index for device in jax.devices()).values()
    if len(set(counts)) > 1:
        raise UserError(f"each process must have as many devices, but one has {min(counts)} and another {max(counts)}")


def _reason(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the sentence with which all processes end where one has met an error."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, f"process {jax.process_index()} was interrupted at once, without saving"
    if isinstance(error, OSError) and (said := of_disk(error)):
        return 2, f"process {jax.process_index()}: {said}"
    # Perhaps what failed is an exchange with a process that died: the bond is about to find out, and to end this one.
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(_VERDICT_SECONDS if several() else 0)
    traceback.print_exception(error)
    return 1, f"process {jax.process_index()} failed: {type(error).__name__}: {error}"


def _explicit(launch: Launch, tell: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], Bond]:
    """Meet at the address that was given, then let JAX connect."""
    place, count, index = address(launch.distributed), launch.num_processes or 1, launch.process_id or 0
    told, bond, port = _meet(place, index, count, launch.join_limit, tell)
    if count > 1:
        try:
            _initialise(str(Address(place.host, port)), count, index, launch.join_limit)
        except RuntimeError as error:
            bond.fail(1, f"process {index} could not connect through JAX: {str(error).splitlines()[0]}")
    return told, bond


def _automatic(launch: Launch, tell: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], Bond]:
    """Let JAX find out from its surroundings who is there, then meet where process 0 says."""
    _quiet()
    try:
        jax.distributed.initialize(initialization_timeout=int(max(launch.join_limit, 1)))
    except RuntimeError as error:
        line = str(error).splitlines()[0]
        raise UserError(f"not all processes came within {launch.join_limit:g} s: {line}") from error
    except ValueError as error:
        raise UserError(
            "--distributed auto found nothing that says how many processes there are (Slurm, Open MPI, Kubernetes, "
            "TPU); give --distributed HOST:PORT, --num_processes and --process_id"
        ) from error
    count, index = jax.process_count(), jax.process_index()
    told, host, port, trouble = {}, "", 0, None
    if index == 0:
        try:
            told, host = tell(), socket.gethostname()
            port = muster.free_port(host)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others wait to hear of it
            trouble = error
    if agree(trouble is not None):  # JAX knows them already, so they end in step
        raise trouble or UserError("process 0 refused what it is to train; it says why")
    if count == 1:
        return told, Bond({})
    name = np.frombuffer(host.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"), np.uint8)
    name, port = multihost_utils.broadcast_one_to_all((name, np.int32(port)))
    place = Address(bytes(name).rstrip(b"\0").decode(), int(port))
    return _meet(place, index, count, launch.join_limit, lambda: told)[:2]


def _meet(
    place: Address, index: int, count: int, limit: float, tell: Callable[[], dict[str, Any]]
) -> tuple[dict[str, Any], Bond, int]:
    """Return what process 0 says, the bond to it or to all others, and a free port of its host."""
    if index:
        link, words = muster.come(place, index, count, limit)
        return words["told"], Bond({0: link}), int(words["port"])
    told = json.loads(json.dumps(tell()))  # as the others will read it
    if count == 1:
        return told, Bond({}), 0
    with muster.listening(place) as server:
        links = muster.receive(server, count, limit)
        port = muster.free_port(place.host)
        muster.tell(links, {"told": told, "port": port})
        return told, Bond(links), port


def _initialise(coordinator: str, count: int, index: int, limit: float) -> None:
    _quiet()
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        coordinator_bind_address=coordinator,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(limit, 1)),
    )


def _quiet() -> None:
    """Keep JAX's hands off SIGTERM, which the run itself answers; on a CPU let it speak through Gloo."""
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")


def agree(number: int) -> int:
    """Return the largest of all processes' numbers, the same in each; all must come here."""
    return int(multihost_utils.process_allgather(np.int32(number)).max()) if several() else number


def own(tree: PyTree) -> PyTree:
    """Return what is the same on all devices as it lies on this process's first."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def gather(tree: PyTree) -> PyTree | None:
    """Return a tree of global arrays as process 0 needs it to write it, whole; None in the others.

    All must come here. On one host it is the tree itself.
    """
    if not several():
        return tree
    whole = jax.tree.map(_whole, tree)
    return whole if first() else None


def _whole(leaf: jax.Array) -> Any:
    """Return a global array whole in process 0; piece by piece, so that no device has to hold all of it."""
    if leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.jit(jax.random.key_data)(leaf)
        found = _whole(data)
        return jax.random.wrap_key_data(jax.numpy.asarray(found), impl=jax.random.key_impl(leaf)) if first() else None
    sharding = leaf.sharding
    if not isinstance(sharding, NamedSharding):
        raise TypeError(f"an array over several hosts lies on a mesh, not as {sharding}")
    split = [*sharding.spec, *[None] * (leaf.ndim - len(sharding.spec))]
    axis = split.index(None) if None in split else 0
    length = leaf.shape[axis]
    rows = length if None not in split else max(1, min(length, _PIECE * length // max(leaf.nbytes, 1)))
    take = _taking(sharding.mesh, axis, rows)
    whole = np.empty(leaf.shape, leaf.dtype) if first() else None
    for begin in range(0, length, rows):
        start = min(begin, length - rows)  # the last piece overlaps the one before: all are of one shape
        piece = take(leaf, start)
        if whole is not None:
            whole[(slice(None),) * axis + (slice(start, start + rows),)] = np.asarray(piece.addressable_data(0))
    return whole


@functools.cache
def _taking(mesh: Any, axis: int, rows: int) -> Callable[[jax.Array, int], jax.Array]:
    """Return a compiled function that gives every device the same rows of an array."""
    take = lambda leaf, start: jax.lax.dynamic_slice_in_dim(leaf, start, rows, axis)
    return jax.jit(take, out_shardings=NamedSharding(mesh, PartitionSpec()))


def spread(template: PyTree, places: PyTree, found: leaves.HostTree | None) -> PyTree:
    """Return the state that process 0 has read, each device with its own part of it.

    All must come here. No folder need be shared: process 0 sends everything, bit for bit.

    Args:
        template: the state's structure, shapes and dtypes; ``jax.ShapeDtypeStruct``.
        places: the sharding of each leaf.
        found: what was read, in process 0.
    """
    named = leaves.named_leaves(template)
    specs = {name: _raw(want) for name, want in named.items()}
    small = {name: spec for name, spec in specs.items() if _size(spec) <= _PIECE}
    arrays = _sent(small, found)
    placed = []
    for (name, want), place in zip(named.items(), jax.tree.leaves(places), strict=True):
        array = arrays[name] if name in small else _sent({name: specs[name]}, found)[name]
        leaf = jax.make_array_from_callback(array.shape, place, lambda part, array=array: array[part])
        is_key = jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key)
        placed.append(jax.jit(jax.random.wrap_key_data, out_shardings=place)(leaf) if is_key else leaf)
    return jax.tree.unflatten(jax.tree.structure(template), placed)


def _raw(want: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype in which a leaf travels: a random key as its numbers."""
    is_key = jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key)
    spec = jax.eval_shape(jax.random.key_data, want) if is_key else want
    return jax.ShapeDtypeStruct(spec.shape, spec.dtype)


def _size(spec: jax.ShapeDtypeStruct) -> int:
    return spec.size * np.dtype(spec.dtype).itemsize


def _sent(specs: Mapping[str, jax.ShapeDtypeStruct], found: leaves.HostTree | None) -> dict[str, np.ndarray]:
    """Return arrays as process 0 has them, sent as bytes: sums of floats would lose the sign of zero."""
    data = np.zeros(sum(_size(spec) for spec in specs.values()), np.uint8)
    ends = np.cumsum([_size(spec) for spec in specs.values()])
    parts = dict(zip(specs, np.split(data, ends[:-1]), strict=True))
    if found is not None:
        for name, part in parts.items():
            if part.size:
                part[:] = np.ascontiguousarray(found.arrays[name]).reshape(-1).view(np.uint8)
    for start in range(0, data.size, _PIECE):
        data[start : start + _PIECE] = multihost_utils.broadcast_one_to_all(data[start : start + _PIECE])
    return {name: parts[name].view(spec.dtype).reshape(spec.shape) for name, spec in specs.items()}
