"""A policy in PyTorch: the same numbers, and gradients that agree with differences of values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.cli.main import main
from mbrl.core.errors import UserError
from mbrl.deploy.policy import Policy, Seen, make_policy

torch = pytest.importorskip("torch")
TorchPolicy = pytest.importorskip("mbrl.deploy.torch_module").TorchPolicy


@pytest.fixture(scope="module")
def module(loaded):
    return TorchPolicy(make_policy(loaded))


def toy():
    """A policy whose gradients are known: action = w x tanh(observation) + sum, where sum remembers observations."""

    def step(parameters, carry, seen, key):
        total = carry["sum"] * ~seen.first + seen.observation[:, 0] * seen.discount
        noise = jax.random.uniform(key)
        return (parameters["w"] * jnp.tanh(seen.observation[:, 1]) + total + noise)[:, None], {
            "steps": carry["steps"] + 1, "sum": total}

    initial = lambda rows: {"steps": jnp.zeros(rows, jnp.int32), "sum": jnp.zeros(rows)}
    action = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    return Policy(step, {"w": jnp.float32(3.0)}, initial, specs.Array((2,), np.float32), action, {}, {})


def test_gradients_worked_by_hand():
    policy = TorchPolicy(toy())
    first = torch.tensor([[0.5, 0.0]], requires_grad=True)
    second = torch.tensor([[1.0, 1.0]], requires_grad=True)
    begins, goes_on = torch.tensor([True]), torch.tensor([False])
    _, carry = policy(first, policy.initial(1), begins)
    assert carry["steps"].dtype == torch.int32
    action, carry = policy(second, carry, goes_on, discount=torch.tensor([0.5]))
    noise = float(jax.random.uniform(jax.random.key(0)))
    assert action.item() == pytest.approx(3 * np.tanh(1.0) + 0.5 + 0.5 + noise)
    assert carry["steps"].tolist() == [2]
    action.sum().backward(retain_graph=True)
    np.testing.assert_allclose(first.grad, [[1.0, 0.0]])
    np.testing.assert_allclose(second.grad, [[0.5, 3 * (1 - np.tanh(1.0) ** 2)]], rtol=1e-6)
    third = torch.tensor([[0.0, 0.0]])
    action, _ = policy(third, carry, begins)  # what was before is forgotten, and so is its gradient
    (gradient,) = torch.autograd.grad(action.sum(), second, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_it_acts_as_the_policy_does(module, loaded):
    policy, rows = make_policy(loaded), 3
    observation = np.random.default_rng(0).normal(size=(2, rows, 2)).astype(np.float32)
    carry, torch_carry = policy.initial(rows), module.initial(rows)
    for t in range(2):
        first = np.full(rows, t == 0)
        seen = Seen(jnp.asarray(observation[t]), jnp.zeros(rows), jnp.ones(rows), jnp.asarray(first))
        action, carry = jax.jit(policy.step)(policy.parameters, carry, seen, jax.random.key(t))
        torch_action, torch_carry = module(torch.tensor(observation[t]), torch_carry, torch.tensor(first), seed=t)
        np.testing.assert_allclose(torch_action, action, atol=1e-6)


def test_gradients_agree_with_differences(module):
    """With respect to what is remembered, which enters the actor smoothly."""
    observation, first = torch.tensor([[0.3, -0.2]]), torch.tensor([False])
    begun = module(observation, module.initial(1), torch.tensor([True]))[1]
    draw = torch.Generator().manual_seed(0)
    begun["latent.deter"] = torch.randn(begun["latent.deter"].shape, generator=draw)
    carry = {name: leaf.requires_grad_() for name, leaf in begun.items()}
    weigh = lambda carry: module(observation, carry, first, seed=1)[1]["latent.deter"].square().sum()
    weigh(carry).backward()
    deter = carry["latent.deter"].detach()
    direction = torch.randn(deter.shape, generator=draw)
    moved = [weigh(carry | {"latent.deter": deter + step * direction}).item() for step in (-1e-2, 1e-2)]
    difference = (moved[1] - moved[0]) / 2e-2
    assert abs(difference) > 1e-3
    assert (carry["latent.deter"].grad * direction).sum().item() == pytest.approx(difference, rel=0.02, abs=1e-4)


def test_memory_that_was_written_to_is_noticed():
    policy = TorchPolicy(toy())
    carry = policy.initial(1)
    observation = torch.zeros(1, 2, requires_grad=True)
    action, _ = policy(observation, carry, torch.tensor([True]))
    carry["sum"] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        action.sum().backward()


def test_what_it_is_given_is_checked(module):
    first = torch.tensor([True])
    with pytest.raises(UserError, match=r"the policy takes \[1, 2\] here"):
        module(torch.zeros(1, 3), module.initial(1), first)
    with pytest.raises(UserError, match=r"carry is action, latent\.deter, latent\.stoch, but was given"):
        module(torch.zeros(1, 2), {}, first)
    with pytest.raises(UserError, match="the policy observes"):
        module({"state": torch.zeros(1, 2)}, module.initial(1), first)


def test_the_command_tries_it_and_says_how(run_dir, capsys):
    assert main(["export", str(run_dir), "--to", "torch"]) == 0
    assert f"policy = mbrl.torch_policy({str(run_dir)!r})" in capsys.readouterr().out
