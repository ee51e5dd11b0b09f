"""Every test runs on the CPU, with types and shapes checked at every door and no silent rank promotion."""

import importlib.metadata
import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Two test processes whose products each want all cores wait for one another.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Most of the suite's time is compilation, of programs that run shortly. XLA's older way of generating code for a CPU
# takes half of it, but jaxlib 0.12 has it no more and an unknown flag ends the process. What runs longer asks for more
# optimisation itself (tests/learning).
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# What one test compiled is there for the others, in whichever process they run, and gone with them: nothing is taken
# from the user's cache or left in it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="mbrl-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import hypothesis
import jax
import jaxtyping

# Before anything imports `mbrl`: its annotations are then checked on every call.
_hook = jaxtyping.install_import_hook("mbrl", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a property compiles, which no deadline foresees.
hypothesis.settings.register_profile("mbrl", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("mbrl")
