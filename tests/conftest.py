"""Every test runs on the CPU, with types and shapes checked at every door and no silent rank promotion."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Nothing is taken from the user's cache or left in it.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import hypothesis
import jax
import jaxtyping

# Before anything imports `mbrl`: its annotations are then checked on every call.
_hook = jaxtyping.install_import_hook("mbrl", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a property compiles, which no deadline foresees.
hypothesis.settings.register_profile("mbrl", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("mbrl")
