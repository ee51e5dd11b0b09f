"""The actor's three gradients against the true one, of which every part is known."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from exact_models import LINE, Choice, Line

from mbrl.behaviours.actor_critic import ActorCritic, ActorCriticConfig
from mbrl.core import normalise

# An undecided critic is worth exactly 0, so that with lambda = 1 the returns are the imagined rewards alone.
BARE = ActorCriticConfig(actor_layers=0, critic_layers=0, units=1, bins=5, entropy=0.0, normalise_returns=False)
CONFIG = dataclasses.replace(BARE, horizon=3, gamma=0.9, lam=1.0, through_policy=True)
ACTION = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
THETA = np.array([-0.4, 0.3, 0.2, -1.5])  # mean and raw deviation from the state; mean and raw deviation alone
STARTS = np.array([-0.8, 0.1, 0.5, 1.2])
CHUNKS, CHUNK = 25, 8000  # of rollouts; the chunks' spread gives the standard error of their mean


def actor_of(theta):
    theta = jnp.asarray(theta, jnp.float32)
    return {"Dense_0": {"kernel": theta[None, :2], "bias": theta[2:]}}


def rollouts(theta, seen=None):
    """Return the states ``[H + 1, S, Q]`` of all starts under all combinations of quadrature noise.

    ``seen`` are the states that the policy answers to, its own by default.
    """
    nodes, _ = noise()
    states = [np.broadcast_to(STARTS[:, None], (len(STARTS), nodes.shape[1]))]
    for t in range(CONFIG.horizon):
        s = states[t] if seen is None else seen[t]
        std = CONFIG.min_std + (CONFIG.max_std - CONFIG.min_std) / (1 + np.exp(-(theta[1] * s + theta[3] + 2)))
        states.append(states[t] + np.tanh(theta[0] * s + theta[2]) + std * nodes[t])
    return np.stack(states)


def noise(points=14):
    """Return Gauss-Hermite nodes ``[H, Q]`` and weights ``[Q]`` of the standard normal in H dimensions."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    grid = np.array(list(itertools.product(x, repeat=CONFIG.horizon))).T
    return grid, np.prod(np.array(list(itertools.product(w / w.sum(), repeat=CONFIG.horizon))), -1)


def objective(theta, seen=None):
    """Return E[c_0 (r_1 + gamma c_1 (r_2 + gamma c_2 r_3))], the mean over the starts, in 64 bits."""
    states = rollouts(theta, seen)
    reward, goes_on = -(states**2), np.exp(-(states**2) / 4)
    returns = reward[3]
    for t in (2, 1):
        returns = reward[t] + CONFIG.gamma * goes_on[t] * returns
    return (goes_on[0] * returns @ noise()[1]).mean()


def slope(function, step=1e-4):
    """Return central differences at THETA."""
    return np.array([(function(THETA + d) - function(THETA - d)) / (2 * step) for d in step * np.eye(4)])


def estimates(config, variants):
    """Return the mean and the standard error of each variant's estimate of the gradient of the objective."""
    behaviours = {name: ActorCritic(dataclasses.replace(config, gradient=name), Line(), ACTION) for name in variants}
    some = next(iter(behaviours.values()))
    critic = some.init(jax.random.key(0))["critic"]
    starts = jnp.tile(jnp.asarray(STARTS, jnp.float32), CHUNK // len(STARTS))[:, None]

    def negative_loss(theta, key, name, change):
        actor = actor_of(theta)
        imagined = some.imagine(LINE, {"actor": actor, "critic": critic}, key, starts)
        loss, _ = behaviours[name].actor_loss(actor, change(imagined), normalise.init())
        return -config.horizon * loss.mean()  # the loss is laid out over H steps; the objective is their sum

    def chunk(key):
        theta = jnp.asarray(THETA, jnp.float32)
        return {
            (name, label): jax.grad(negative_loss)(theta, key, name, change)
            for name, changes in variants.items()
            for label, change in changes.items()
        }

    keys = jax.random.split(jax.random.key(1), CHUNKS)
    gradients = jax.jit(lambda keys: jax.lax.map(chunk, keys))(keys)
    return {label: (np.mean(x, 0), np.std(x, 0, ddof=1) / CHUNKS**0.5) for label, x in gradients.items()}


RIGHT = {"right": lambda imagined: imagined}


def later(x):
    return jnp.concatenate([x[1:], x[-1:]])


@pytest.fixture(scope="module")
def found():
    wrong = {
        "weights one step late": lambda x: x._replace(weight=later(x.weight)),
        "weights without the start": lambda x: x._replace(weight=x.weight / x.weight[:1]),
        "returns one step late": lambda x: x._replace(returns=later(x.returns)),
        "actions one step late": lambda x: x._replace(action=later(x.action)),
    }
    return estimates(CONFIG, {"dynamics": RIGHT, "reinforce": RIGHT | wrong, "mix": RIGHT})


@pytest.mark.parametrize("name", ["dynamics", "reinforce", "mix"])
def test_each_gradient_is_the_true_one(found, name):
    exact = slope(objective)
    mean, error = found[name, "right"]
    assert (abs(mean - exact) < 4 * error).all(), (mean, exact, error)
    assert (error < 0.1 * abs(exact).max()).all()  # they agree because they are right, not because they are vague


def test_the_three_agree(found):
    names = ("dynamics", "reinforce", "mix")
    for one, other in itertools.combinations(names, 2):
        (mean, error), (mean2, error2) = found[one, "right"], found[other, "right"]
        # The rollouts are the same, so that the two errors may add up.
        assert (abs(mean - mean2) < 3 * (error + error2)).all(), (one, other)


@pytest.mark.parametrize(
    "mistake",
    ["weights one step late", "weights without the start", "returns one step late", "actions one step late"],
)
def test_a_misplaced_step_is_noticed(found, mistake):
    mean, error = found["reinforce", mistake]
    assert (abs(mean - slope(objective)) / error).max() > 8


def starts_objective(theta, seen):
    """Return E[sum_t w_t R_t]: every imagined state a start, its weight and what the policy answers to held fixed."""
    states = rollouts(theta, seen)
    reward, goes_on, reached = -(states**2), np.exp(-(states**2) / 4), np.exp(-(seen**2) / 4)
    returns = [reward[3]]
    for t in (2, 1):
        returns.insert(0, reward[t] + CONFIG.gamma * goes_on[t] * returns[0])
    weights = np.cumprod(np.stack([reached[0], CONFIG.gamma * reached[1], CONFIG.gamma * reached[2]]), 0)
    return sum(w * r for w, r in zip(weights, returns, strict=True)).mean(0) @ noise()[1]


def test_by_default_every_imagined_state_is_a_start_and_the_answers_are_held():
    closed = dataclasses.replace(CONFIG, through_policy=False)
    mean, error = estimates(closed, {"dynamics": RIGHT})["dynamics", "right"]
    seen = rollouts(THETA)
    assert (abs(mean - slope(lambda theta: starts_objective(theta, seen))) < 4 * error).all()
    assert (abs(mean - slope(objective)) / error).max() > 8  # which is not the derivative of R_0 alone
    assert not ActorCriticConfig().through_policy


def test_discrete_gradients_agree_where_straight_through_is_exact():
    config = dataclasses.replace(CONFIG, horizon=1)
    spec, model = specs.DiscreteArray(3), Choice()
    make = lambda name: ActorCritic(dataclasses.replace(config, gradient=name), model, spec)
    kinds = {name: make(name) for name in ("dynamics", "reinforce")}
    rng = np.random.default_rng(0)
    actor = {"Dense_0": {"kernel": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32), "bias": jnp.zeros(3)}}
    critic = kinds["dynamics"].init(jax.random.key(0))["critic"]
    starts = jnp.tile(jnp.eye(3), (CHUNK // 3, 1))

    def gradient(name, key):
        def negative_loss(actor):
            imagined = kinds[name].imagine({}, {"actor": actor, "critic": critic}, key, starts)
            return -kinds[name].actor_loss(actor, imagined, normalise.init())[0].mean()

        return jax.grad(negative_loss)(actor)["Dense_0"]["kernel"]

    # E[r] = sum_k p_k price_k, with a hundredth of uniform in p.
    expected = lambda kernel: ((0.99 * jax.nn.softmax(starts @ kernel) + 0.01 / 3) @ Choice.prices).mean()
    exact = jax.grad(expected)(actor["Dense_0"]["kernel"])
    keys = jax.random.split(jax.random.key(1), CHUNKS)
    pathwise = jax.jit(lambda: gradient("dynamics", keys[0]))()
    np.testing.assert_allclose(pathwise, exact, rtol=1e-4, atol=1e-6)  # linear: no sample differs from another
    scored = np.asarray(jax.jit(lambda keys: jax.lax.map(lambda key: gradient("reinforce", key), keys))(keys))
    error = scored.std(0, ddof=1) / CHUNKS**0.5
    assert (abs(scored.mean(0) - exact) < 4 * error).all()
    assert (error < 0.05 * abs(exact).max()).all()
