"""An exported policy's two files: the program and its parameters in one, what they mean as JSON in the other.

The file is eight bytes that say what it is, the program as `jax.export` serialises it, and the parameters as they lie
in memory, little-endian, each at a multiple of 64 bytes. Nothing in either file is run to read them, and every size is
checked against the size of the file before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mbrl.core.errors import UserError
from mbrl.runner.files import write_atomic

MAGIC = b"MBRLPOL1"
FORMAT, VERSION = "mbrl-policy", 1
MAX_JSON = 4 * 2**20  # bytes
MAX_PROGRAM = 256 * 2**20  # bytes; a program without its parameters is a thousandth of that
_MOST = 2**40  # numbers of an array, leaving out axes of 0: NumPy refuses much more even where nothing is in it
MAX_ROWS = 2**20
_ALIGN = 64
_NUMPY = ("float32", "float16", "int32", "uint32", "int8", "uint8", "int16", "uint16", "bool")
DTYPES = {name: np.dtype(name) for name in _NUMPY} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Array(NamedTuple):
    """Where an array lies in the file, or how large one of the carry is."""

    name: str
    shape: tuple[Any, ...]  # whole numbers; of the carry the first may be "any"
    dtype: str
    offset: int = 0  # bytes


class Artifact(NamedTuple):
    """What was read and holds together; the program itself has not been looked at."""

    path: Path
    about: dict[str, Any]  # the JSON
    code: bytes
    parameters: dict[str, np.ndarray]
    carry: tuple[Array, ...]
    rows: int | str  # or "any"


def beside(path: Path) -> Path:
    """Return where the JSON of an artifact is."""
    return path.with_suffix(".json")


def check_path(path: Path) -> None:
    """Check that an artifact can be written there.

    Raises:
        UserError: it cannot.
    """
    if path.suffix == ".json" or not path.name:
        raise UserError(f"--to is {str(path)!r}, but must be a file such as policy.bin; its description becomes "
                        "policy.json")
    if path.is_dir():
        raise UserError(f"--to is the folder {path}, but must be a file such as {path / 'policy.bin'}")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} to write {path.name} in; make it first")
    told = beside(path)
    if told.exists() and not _describes(told):
        raise UserError(f"{told}, which would be the description of {path.name}, is there already and describes no "
                        "exported policy; choose another name for --to")


def write(path: Path, code: bytes, parameters: dict[str, np.ndarray], about: dict[str, Any]) -> dict[str, Any]:
    """Write both files, each in one step, and return the JSON's content.

    Raises:
        OSError: the disk refused. Then the two files may not belong together, which ``read`` notices.
    """
    parts, listed, offset = [MAGIC, code], [], len(MAGIC) + len(code)
    for name, array in sorted(parameters.items()):
        gap = -offset % _ALIGN
        content = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        listed.append({"name": name, "shape": list(array.shape), "dtype": array.dtype.name, "offset": offset + gap})
        parts += [bytes(gap), content]
        offset += gap + len(content)
    whole = b"".join(parts)
    told = {
        "format": FORMAT,
        "format_version": VERSION,
        "file": {"name": path.name, "bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()},
        "program": {"offset": len(MAGIC), "bytes": len(code)},
        **about,
        "parameters": listed,
    }
    write_atomic(path, whole)
    write_atomic(beside(path), json.dumps(told, indent=1) + "\n")
    return told


def read(path: Path) -> Artifact:
    """Read an artifact and check everything about it that can be checked without understanding its program.

    Raises:
        UserError: one of the files is missing, damaged, or says what cannot be.
    """
    about = _read_json(beside(path))
    try:
        return _read(path, about)
    except _MalformedError as error:
        raise UserError(f"{beside(path)} does not describe an exported policy: {error}; export it again") from None


def _describes(path: Path) -> bool:
    try:
        return bool(_read_json(path))
    except UserError:
        return False


class _MalformedError(Exception):
    """What is wrong with the JSON."""


def _read_json(path: Path) -> dict[str, Any]:
    text = _bytes(path, MAX_JSON)
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON; export the policy again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{path} does not describe an exported policy; `mbrl export RUN_DIR --to policy.bin` makes one")
    if about.get("format_version") != VERSION:
        given = _short(about.get("format_version"))
        raise UserError(f"{path} is of format {given}, but this mbrl reads {VERSION}; export again")
    return about


def _read(path: Path, about: dict[str, Any]) -> Artifact:
    file, code = _get(about, "file", dict), _get(about, "program", dict)
    size, digest = _whole(file, "bytes", 2**50), _get(file, "sha256", str)
    rows = about.get("rows")
    if rows != "any" and not (type(rows) is int and 1 <= rows <= MAX_ROWS):
        raise _MalformedError(f"rows is {_short(rows)}, not a number of rows")
    start, length = _whole(code, "offset", size), _whole(code, "bytes", min(size, MAX_PROGRAM))
    listed = [_array(entry, size) for entry in _get(about, "parameters", list)]
    _refuse_twice(listed)
    carry = [_array(entry, None) for entry in _get(_get(about, "inputs", dict), "carry", list)]
    _refuse_twice(carry)
    if any(entry.shape[:1] != (rows,) for entry in carry):
        raise _MalformedError("a carry is not of as many rows as the policy")
    spans = [(start, length), *((entry.offset, extent(entry)) for entry in listed)]
    if any(begin + extent > size for begin, extent in spans) or sum(extent for _, extent in spans) > size:
        raise _MalformedError(f"what it lists is more than the {size} bytes of the file")
    content = _bytes(path, size, exactly=True)
    if not content.startswith(MAGIC):
        raise UserError(f"{path} is not an exported policy: it does not begin with {MAGIC.decode()}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path} differs from the checksum in {beside(path)}: it is damaged, or another export's; "
                        "export it again")
    return Artifact(path, about, content[start : start + length], _arrays(content, listed), tuple(carry), rows)


def _arrays(content: bytes, listed: list[Array]) -> dict[str, np.ndarray]:
    found = {}
    for entry in listed:
        dtype = DTYPES[entry.dtype].newbyteorder("<")
        flat = np.frombuffer(content, dtype, math.prod(entry.shape), entry.offset)
        found[entry.name] = flat.reshape(entry.shape)
    return found


def extent(entry: Array) -> int:
    """Return an array's bytes; Python's numbers do not overflow."""
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize


def _array(entry: Any, size: int | None) -> Array:
    """Return an array's description; ``size`` is that of the file it lies in, None of a carry, which lies in none."""
    if not isinstance(entry, dict):
        raise _MalformedError(f"{_short(entry)} describes no array")
    name, dtype, shape = _get(entry, "name", str), _get(entry, "dtype", str), _get(entry, "shape", list)
    if dtype not in DTYPES:
        raise _MalformedError(f"{_short(name)} has the dtype {_short(dtype)}, which no policy has")
    sizes = shape[1:] if size is None and shape[:1] == ["any"] else shape
    odd = len(shape) > 16 or any(type(n) is not int or n < 0 for n in sizes)
    if odd or math.prod(n or 1 for n in sizes) >= _MOST:
        raise _MalformedError(f"{_short(name)} has the shape {_short(shape)}, which no array has")
    return Array(name, tuple(shape), dtype, 0 if size is None else _whole(entry, "offset", size))


def _refuse_twice(entries: list[Array]) -> None:
    if len({entry.name for entry in entries}) < len(entries):
        raise _MalformedError("a name is listed twice")


def _get(mapping: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(mapping.get(key), kind):
        raise _MalformedError(f"{key} is missing, or not a {kind.__name__}")
    return mapping[key]


def _whole(mapping: dict[str, Any], key: str, most: int) -> int:
    value = mapping.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise _MalformedError(f"{key} is {_short(value)}, but must be a whole number from 0 to {most}")
    return value


def _bytes(path: Path, most: int, *, exactly: bool = False) -> bytes:
    """Return a file's content.

    Raises:
        UserError: it is not there, no file, or not of the size it should have.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if exactly and size != most:
                raise UserError(f"{path} has {size} bytes, but its description says {most}; export the policy again")
            if size > most:
                raise UserError(f"{path} has {size} bytes, but at most {most} can be right")
            return file.read(most)
    except OSError as error:
        raise UserError(f"exported policy {path} cannot be read: {error.strerror}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
