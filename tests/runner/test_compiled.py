import jax
import jax.numpy as jnp
import pytest

from mbrl.runner import compiled


def test_what_the_user_asks_of_xla_is_left_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert compiled.options() == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert compiled.options() == {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(compiled.jax, "default_backend", lambda: "gpu")
    assert compiled.options() == {}


def test_compiled_beside_for_shapes_alone():
    begun = compiled.compile_beside(jax.jit(lambda x: 2 * x), jax.ShapeDtypeStruct((3,), jnp.float32))
    found = begun.result()
    assert found.call(jnp.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    assert found.seconds > 0
    assert found.footprint.held == 12


def test_what_fails_in_the_thread_is_raised_where_it_is_waited_for():
    def fails(x):
        raise ArithmeticError(f"no place for {x.shape}")

    begun = compiled.compile_beside(jax.jit(fails), jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(ArithmeticError, match=r"no place for \(3,\)"):
        begun.result()
