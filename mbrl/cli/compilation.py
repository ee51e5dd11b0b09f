"""XLA's persistent compilation cache: what was compiled once is read again by the next process."""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 2 * 1024**3
_GIB = 1024**3


def folder() -> Path:
    """Return where compiled programs are kept: below the user's cache folder, as XDG names it."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "mbrl" / "xla"


def use_cache() -> str:
    """Switch the cache on for this process and return a line that says where it is and how large it may become.

    JAX's own settings go before: with JAX_COMPILATION_CACHE_DIR it is that folder, however large; with
    JAX_ENABLE_COMPILATION_CACHE=false there is none. Beyond the bound JAX drops what was not used for the longest time.
    The command line alone calls this, for it sets JAX for the whole process; a program that imports `mbrl` decides
    for itself.
    """
    import jax

    settings = jax.config.values
    if not settings["jax_enable_compilation_cache"]:
        return "compilation cache: off"
    if chosen := settings["jax_compilation_cache_dir"]:
        return f"compilation cache: {chosen}"
    path = folder()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"compilation cache: off, for {path} cannot be made ({error.strerror})"
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    return f"compilation cache: {path}, at most {MAX_BYTES / _GIB:.0f} GiB"
