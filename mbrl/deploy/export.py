"""A policy as a StableHLO artifact that runs with jax alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, UInt32

from mbrl.core.errors import UserError, unknown
from mbrl.deploy import artifact, describe, program
from mbrl.deploy.policy import Named, Policy, Seen, carry_like, seen_like, shapes
from mbrl.version import __version__

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SYMBOLIC = "symbolic"
# Where the code lies that was traced is nobody's business: the artifact would carry the paths of this machine.
_SOURCES = "jax_hlo_source_file_canonicalization_regex"
_HOW = (
    "1. Check that file.sha256 is the SHA-256 of the whole file.",
    "2. program = jax.export.deserialize(bytearray(file[program.offset : program.offset + program.bytes]))",
    "3. parameters = {name: array of that dtype and shape, little-endian, at that offset of the file}",
    "4. carry = {name: zeros of that dtype and shape}; first = ones",
    "5. action, carry = program.call(parameters, carry, observation, reward, discount, first, seed), for ever; first is"
    " true at the first step of each episode and false at all others, and no seed should be used twice.",
)


def write(
    policy: Policy, path: Path, rows: int | str = 1, platforms: Sequence[str] = ("cpu", "cuda")
) -> dict[str, Any]:
    """Write ``path`` and, beside it, the JSON that describes it, and return what that says.

    Args:
        policy: from ``make_policy``.
        path: of the artifact; the JSON has the same name but for its ending.
        rows: how many environments each call is for, or "symbolic" for any number.
        platforms: what it is to run on, of ``PLATFORMS``; none of them has to be there.

    Raises:
        UserError: a number, a platform or a path that will not do, or a policy that cannot be exported so.
        OSError: the disk refused.
    """
    check(path, rows, platforms)
    artifact.check_path(path)
    lowered = _lower(policy, rows, platforms)
    code = bytes(lowered.serialize())
    program.refuse_foreign(path, program.report(lowered))
    arrays = {name: np.asarray(array) for name, array in policy.parameters.items()}
    return artifact.write(path, code, arrays, _about(policy, rows, lowered))


def check(path: Path, rows: int | str, platforms: Sequence[str]) -> None:
    """Check what a person asks for, before anything is loaded.

    Raises:
        UserError: it cannot be.
    """
    artifact.check_path(path)
    if rows != SYMBOLIC and not (isinstance(rows, int) and 1 <= rows <= artifact.MAX_ROWS):
        raise UserError(f"--batch is {rows!r}, but must be a whole number from 1 to {artifact.MAX_ROWS}, or symbolic")
    if not platforms:
        raise UserError(f"--platforms names none; take some of {', '.join(PLATFORMS)}")
    for platform in platforms:
        if platform not in PLATFORMS:
            raise unknown("platform", platform, PLATFORMS)


def _lower(policy: Policy, rows: int | str, platforms: Sequence[str]) -> export.Exported:
    """Return the traced program, of which the arguments are plain dicts and arrays."""
    size: Any = export.symbolic_shape("rows")[0] if rows == SYMBOLIC else rows
    told = seen_like(policy.observation_spec, size)
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32)
    args = (shapes(policy.parameters), carry_like(policy, size), *told, seed)
    before = jax.config.values[_SOURCES]
    jax.config.update(_SOURCES, ".*")
    try:
        return export.export(jax.jit(_entry(policy)), platforms=tuple(platforms))(*args)
    except (TypeError, ValueError, NotImplementedError) as error:  # of JAX, where an open size should be a number
        if rows != SYMBOLIC:
            raise
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"this policy cannot be exported for any number of rows ({cause}); give --batch a number"
                        ) from error
    finally:
        jax.config.update(_SOURCES, before)


def _entry(policy: Policy) -> Any:
    def policy_step(parameters: Named, carry: Named, observation: Any, reward: Array, discount: Array, first: Array,
                    seed: UInt32[Array, "2"]) -> tuple[Array, Named]:  # fmt: skip
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        return policy.step(parameters, carry, Seen(observation, reward, discount, first), key)

    return policy_step


def _about(policy: Policy, rows: int | str, lowered: export.Exported) -> dict[str, Any]:
    """Return what the JSON says beside where things lie in the file."""
    size = "any" if rows == SYMBOLIC else rows
    carry = [{"name": name, "shape": [size, *leaf.shape[1:]], "dtype": str(leaf.dtype)}
             for name, leaf in sorted(carry_like(policy, 1).items())]
    number = {"shape": [size], "dtype": "float32"}
    repeat = policy.task["action_repeat"]
    return {
        "task": policy.task,
        "policy": policy.maker,
        "rows": size,
        "platforms": list(lowered.platforms),
        "inputs": {
            "parameters": "the arrays listed under `parameters`, under their names",
            "carry": carry,
            "observation": describe.observation(policy.observation_spec, [size]),
            "reward": number | {"meaning": f"the environment's, summed over the {repeat} env steps of the last action;"
                                           " 0 where first"},
            "discount": number | {"meaning": "0 where the episode has terminated, else 1", "minimum": 0, "maximum": 1},
            "first": {"shape": [size], "dtype": "bool", "meaning": "an episode begins: what was remembered of the row"
                                                                   " is forgotten, whatever carry holds"},
            "seed": {"shape": [2], "dtype": "uint32", "meaning": "of all that is random in this call; [0, s] is"
                                                                 " jax.random.key(s)"},
        },
        "outputs": {
            "action": describe.action(policy.action_spec, [size]),
            "carry": "as the input's; for the next call",
        },
        "made_with": {"mbrl": __version__, "jax": jax.__version__,
                      "calling_convention": lowered.calling_convention_version},
        "how_to_run": list(_HOW),
    }
