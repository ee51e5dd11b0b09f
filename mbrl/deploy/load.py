"""An exported policy, read again and run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, PyTree

from mbrl.core.errors import UserError
from mbrl.deploy import artifact, program


class LoadedPolicy(NamedTuple):
    """A policy that runs without its environment, its agent or its config.

    Attributes:
        about: what the JSON beside the file says.
        rows: how many environments each call is for; None for any number.
        initial: ``N -> carry`` of environments never seen.
        act: ``(carry, observation, first, seed, reward, discount) -> (action, carry)``, each ``[N, ...]``; jitted.
            ``seed`` is a whole number below 2**32, or two, as ``jax.random.key_data`` has them. Action, reward and
            observation are in the environment's own units.
    """

    about: dict[str, Any]
    rows: int | None
    initial: Callable[[int], dict[str, Array]]
    act: Callable[..., tuple[Array, dict[str, Array]]]


def load_policy(path: str | Path) -> LoadedPolicy:
    """Read an exported policy; nothing in it is run before all of it was checked.

    A checksum tells damage, not intent: who can write the file can write its checksum. What a file of somebody you do
    not trust could do is in `docs/SECURITY.md`.

    Raises:
        UserError: a file is missing, damaged, no policy, for another machine, or would do more than compute.
    """
    read = artifact.read(Path(path))
    found = program.examine(read.path, read.code)
    program.refuse_foreign(read.path, found)
    _check_fit(read, found)
    _check_platform(read.path, found.platforms)
    exported = export.deserialize(bytearray(read.code))
    _check_names(read, exported)
    rows = None if read.rows == "any" else int(read.rows)
    return LoadedPolicy(read.about, rows, _initial(read), _act(read, exported))


def _check_platform(path: Path, platforms: list[str]) -> None:
    here = {"gpu": {"cuda", "rocm"}}.get(jax.default_backend(), {jax.default_backend()})
    if not here & set(platforms):
        made = ", ".join(platforms)
        raise UserError(f"{path} was exported for {made}, but JAX runs on {jax.default_backend()} here; export it "
                        f"with --platforms {sorted(here)[0]}")


def _check_fit(read: artifact.Artifact, found: program.Report) -> None:
    """Check that the program takes and returns what the description says.

    Raises:
        UserError: it does not.
    """
    arrays = [[list(array.shape), array.dtype.name] for _, array in sorted(read.parameters.items())]
    carry = [[list(entry.shape), entry.dtype] for entry in sorted(read.carry)]
    told = [[[read.rows], dtype] for dtype in ("float32", "float32", "bool")] + [[[2], "uint32"]]
    before, after = len(arrays) + len(carry), len(carry)
    fits = found.inputs[:before] == arrays + carry and found.inputs[-4:] == told and len(found.inputs) > before + 4
    if not fits or found.outputs[1:] != carry or len(found.outputs) != after + 1:
        raise UserError(f"the program in {read.path} does not take and return what {artifact.beside(read.path)} says; "
                        "export it again")
    sizes = [artifact.extent(entry) for entry in read.carry if "any" not in entry.shape]
    if max(sizes, default=0) > program.MAX_ARRAY:
        raise UserError(f"the carry of {read.path} has an array of {max(sizes)} bytes; more than {program.MAX_ARRAY} "
                        "are refused")


def _check_names(read: artifact.Artifact, exported: export.Exported) -> None:
    """Check that the program calls its parameters and its carry as the description does; raises UserError if not."""
    try:
        parameters, carry, _, _, _, _, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
        named = parameters.keys() == read.parameters.keys() and carry.keys() == {entry.name for entry in read.carry}
    except (TypeError, ValueError, AttributeError, LookupError):
        named = False
    if not named:
        raise UserError(f"the program in {read.path} has other names than {artifact.beside(read.path)} says; export it "
                        "again")


def _initial(read: artifact.Artifact) -> Callable[[int], dict[str, Array]]:
    def initial(rows: int) -> dict[str, Array]:
        _check_rows(read, rows)
        return {entry.name: jnp.zeros((rows, *entry.shape[1:]), artifact.DTYPES[entry.dtype]) for entry in read.carry}

    return initial


def _act(read: artifact.Artifact, exported: export.Exported) -> Callable[..., tuple[Array, dict[str, Array]]]:
    parameters = jax.tree.map(jnp.asarray, read.parameters)
    run = jax.jit(exported.call)
    _, _, seen, *_ = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]

    def act(
        carry: dict[str, Array],
        observation: PyTree,
        first: Any,
        seed: Any = 0,
        reward: Any = None,
        discount: Any = None,
    ) -> tuple[Array, dict[str, Array]]:
        first = np.asarray(first, bool)
        rows = first.shape[0] if first.ndim == 1 else 0
        _check_rows(read, rows)
        observation = _checked(seen, observation, rows)
        reward = np.zeros(rows, np.float32) if reward is None else np.asarray(reward, np.float32)
        discount = np.ones(rows, np.float32) if discount is None else np.asarray(discount, np.float32)
        seed = np.asarray([0, seed] if np.ndim(seed) == 0 else seed, np.uint32)
        return run(parameters, carry, observation, reward, discount, first, seed)

    return act


def _check_rows(read: artifact.Artifact, rows: int) -> None:
    if rows < 1 or read.rows not in {"any", rows}:
        raise UserError(f"{read.path} acts for {read.rows} environments at once, but was given {rows}")


def _checked(seen: PyTree, observation: PyTree, rows: int) -> PyTree:
    """Return an observation as the arrays that the program takes.

    Raises:
        UserError: it is another's.
    """
    if jax.tree.structure(observation) != jax.tree.structure(seen):
        given = _told(jax.tree.map(np.asarray, observation))
        raise UserError(f"the policy observes {_told(seen)}, but was given {given}")
    arrays = jax.tree.map(lambda aval, leaf: np.asarray(leaf, aval.dtype), seen, observation)
    wrong = jax.tree.map(lambda aval, leaf: leaf.shape != (rows, *aval.shape[1:]), seen, arrays)
    if any(jax.tree.leaves(wrong)):
        raise UserError(f"the policy observes {_told(seen)}, but was given {_told(arrays)}")
    return arrays


def _told(tree: PyTree) -> str:
    """Return shapes for a sentence."""
    if isinstance(tree, dict):
        return ", ".join(f"{name} {_told(leaf)}" for name, leaf in sorted(tree.items())) or "nothing"
    return f"{tree.dtype}[{', '.join(map(str, tree.shape))}]"
