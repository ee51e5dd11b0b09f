import jax
import pytest


@pytest.fixture(autouse=True)
def _plain_code_may_broadcast():
    with jax.numpy_rank_promotion("allow"):
        yield
