"""What a StableHLO program consists of, looked at before it is run, and in a process apart (`-m mbrl.deploy.program`).

A program of pure StableHLO computes on the arrays it is given and can reach nothing else. The way out of it is a custom
call: XLA looks its target up among native functions, and those behind Python callbacks take an address in this process
out of the program itself. So only targets on a short list pass, and only dialects that compute.

The reader of the bytes is MLIR's, written in C++ for bytes that its own writer made: on damaged ones it may crash. It
therefore meets a file first in a process of its own, under limits of memory and time.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export
from jax.extend.mlir import ir
from jax.interpreters import mlir

from mbrl.core.errors import UserError

# Dialects that compute on arrays, and the ones they are wrapped in.
_DIALECTS = frozenset({"builtin", "func", "stablehlo", "chlo"})
# Of StableHLO, what speaks with the outside; none of it comes of an exported function.
_OUTSIDE = frozenset({"stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv"})
# Checks of shapes, which are gone before anything is compiled, and JAX's random bits on GPUs.
CUSTOM_CALLS = frozenset({"shape_assertion", "cu_threefry2x32_ffi", "hip_threefry2x32_ffi"})
MAX_ARRAY = 8 * 2**30  # bytes of one intermediate array
_SECONDS, _MEMORY = 120, 16 * 2**30  # of the process that reads first


class Report(NamedTuple):
    """What a program consists of."""

    operations: list[str]  # their names, sorted, each once
    custom_calls: list[str]  # their targets
    largest: int  # bytes of the largest array of known size
    platforms: list[str]
    inputs: list[list[Any]]  # [shape, dtype] of each; a size that is open is "any"
    outputs: list[list[Any]]


def report(exported: export.Exported) -> Report:
    """Return what a program consists of; it is parsed, not run."""
    operations, targets, largest = set(), set(), [0]

    def visit(operation: Any) -> Any:
        operations.add(operation.name)
        if "custom_call" in operation.name:
            attributes = operation.attributes
            target = attributes.get("call_target_name", None)  # the None of an attribute that is not there
            targets.add(target.value if isinstance(target, ir.StringAttr) else "without a name")
        largest.extend(_bytes_of(result.type) for result in operation.results)
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        module = ir.Module.parse(exported.mlir_module())
        module.operation.walk(visit)
    shapes = lambda avals: [[_sizes(aval), str(aval.dtype)] for aval in avals]
    return Report(sorted(operations), sorted(targets), max(largest), list(exported.platforms),
                  shapes(exported.in_avals), shapes(exported.out_avals))


def refuse_foreign(path: Path, found: Report) -> None:
    """Refuse a program that does more than compute.

    Raises:
        UserError: it has an operation or a custom call that is not on the list, or an array beyond all measure.
    """
    strange = [name for name in found.operations if name.partition(".")[0] not in _DIALECTS or name in _OUTSIDE]
    strange += [f"the custom call {target!r}" for target in found.custom_calls if target not in CUSTOM_CALLS]
    if strange:
        raise UserError(f"the program in {path} holds {strange[0][:100]}, which may do more than compute; it is not run"
                        )
    if found.largest > MAX_ARRAY:
        raise UserError(f"the program in {path} holds an array of {found.largest} bytes; more than {MAX_ARRAY} are "
                        "refused")


def examine(path: Path, code: bytes) -> Report:
    """Let another process read a program, and return what it found.

    Args:
        path: of the file that it stands in.
        code: the program; the very bytes that are run later, whatever becomes of the file.

    Raises:
        UserError: it is no program that can be read.
    """
    # -P: a file of a stranger's may lie in a folder with modules of a stranger's.
    command = [sys.executable, "-P", "-m", "mbrl.deploy.program"]
    search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    quiet = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": search, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    try:
        done = subprocess.run(command, env=quiet, input=code, capture_output=True, timeout=_SECONDS, check=False)
        found = Report(**json.loads(done.stdout)) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, TypeError):
        found = None
    if found is None:
        raise UserError(f"the program in {path} cannot be read: it is damaged, or of a newer JAX than "
                        f"{jax.__version__}; export it again")
    return found


def _sizes(aval: Any) -> list[Any]:
    return [size if isinstance(size, int) else "any" for size in aval.shape]


def _bytes_of(kind: Any) -> int:
    """Return the bytes of an array type, 0 where its size is open."""
    if not isinstance(kind, ir.RankedTensorType) or not kind.has_static_shape:
        return 0
    element = kind.element_type
    bits = element.width if isinstance(element, ir.IntegerType | ir.FloatType) else 128
    return math.prod(kind.shape) * max(8, bits) // 8


def _main() -> None:
    """Read a program from standard input, under limits, and print what it consists of."""
    limits = {resource.RLIMIT_CPU: _SECONDS, resource.RLIMIT_CORE: 0, resource.RLIMIT_AS: _MEMORY}
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    code = bytearray(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # from here on it writes no file
    exported = export.deserialize(code)
    found = report(exported)
    # A second program, of gradients, would be run by whoever takes one, and nobody has looked at it.
    odd = {"a program of gradients": exported.has_vjp(), "a program for several devices": exported.nr_devices != 1}
    found.operations.extend(name for name, there in odd.items() if there)
    sys.stdout.write(json.dumps(found._asdict()))


if __name__ == "__main__":
    _main()
