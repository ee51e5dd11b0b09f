"""What must hold of a search whatever it searches in: guards, trust, order, units, ends and where it begins from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import line, noisy_line, planned
from scipy.stats import norm

from mbrl.bench import control
from mbrl.core.distributions import Squashed, TanhNormal
from mbrl.planners import PLANNERS
from mbrl.planners import tree as trees
from mbrl.planners.base import Arrival, Problem, Warm, shifted
from mbrl.planners.mcts import MCTS, MCTSConfig
from mbrl.planners.refine import climb
from mbrl.planners.shooting import Searched, Shooting, roll
from mbrl.planners.soft_tree import SoftTree, SoftTreeConfig
from mbrl.planners.tree_backup import lower

STARTS = jnp.array([[-0.9], [-0.4], [0.1], [0.6]])
TREE = SoftTreeConfig(rounds=1, width=6, candidates=4, paths=4, horizon=2, refine=0, trust=2.0)


def wavy():
    """The line with three critics, each with waves of its own about half a step of the policy long."""
    phase = jnp.array([0.0, 2.0, 4.0])

    def value(_, latent):
        s = latent[..., 0]
        each = phase.reshape((3,) + (1,) * s.ndim)
        return -2.0 * s[None] ** 2 + 0.5 * jnp.sin(20.0 * s[None] + each)

    return line(wide=50.0)._replace(value=value)


def test_the_guard_lets_no_path_fall():
    """On wavy critics a step along the slope may lead down: taken back, a path is never worth less than it was.

    All of 64 paths are compared, each with itself. Without the guard some fall, or there would be nothing to guard.
    """
    made = lambda refine, guard: SoftTree(dataclasses.replace(TREE, refine=refine, guard=guard), wavy())
    noise = trees.draw(jax.random.key(1), made(0, True).shape, 16, 1)
    keys = jax.random.split(jax.random.key(2), TREE.horizon)

    @jax.jit
    def worths(s):
        grown = made(0, True).grow(None, s, noise)
        searches = made(0, True), made(5, True), made(5, False)
        found = [search.refined(None, s, grown, keys, search.initial(16)) for search in searches]
        return [(lower(followed.edge, TREE.pessimism), value) for followed, value in found]

    drawn, guarded, loose = worths(jnp.linspace(-1, 1, 16)[:, None])
    (before, root_before), (after, root_after) = drawn, guarded
    assert (after >= before - 1e-5).all()
    assert (after > before + 1e-3).mean() > 0.5
    assert (root_after >= root_before - 1e-5).all()
    assert (loose[0] < before - 1e-2).any(1).sum() > 1


def test_each_path_is_guarded_by_its_own_value():
    """Of two paths the first gains 3 by what the second loses 1 by: only the first moves."""
    value = lambda u: jnp.stack([3 * u[0, :, 0, 0], jnp.sin(jnp.pi * u[0, :, 1, 0])], 1)
    guarded, loose = (climb(value, jnp.zeros((1, 1, 2, 1)), 1, 1.5, 2.0, guard)[0, 0, :, 0] for guard in (True, False))
    np.testing.assert_allclose(guarded, [1.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(loose, [1.5, 1.5], atol=1e-6)


def test_a_climb_stays_within_its_trust_region():
    """The slope is 1, 100 and -1 everywhere, steps are long: each entry of u ends at the bound it is driven to."""
    slope = jnp.broadcast_to(jnp.array([1.0, 100.0, -1.0]), (2, 1, 2, 3))
    for guard in (True, False):
        u = climb(lambda u: (u * slope).sum((0, 3)), jnp.zeros_like(slope), 12, 0.5, 0.7, guard)
        assert (abs(u) <= 0.7).all()
        np.testing.assert_allclose(u, 0.7 * jnp.sign(slope))


def test_no_refined_action_leaves_the_trust_region_of_its_draw():
    """The best is 30 deviations of the policy away: what was drawn moves by 0.7 of them, and no further."""
    config = dataclasses.replace(TREE, refine=8, trust=0.7)
    plan, _ = planned(SoftTree(config, line(wide=50.0, policy_std=0.05)), jnp.array([[-2.0], [2.0]]))
    drawn, found = (np.sort(x[..., 0], 1) for x in (plan.tree.nodes.action[:, 1:], plan.candidates))
    # The best of the draws are refined: of the left start the greatest, of the right one the least.
    np.testing.assert_allclose(found[0], drawn[0, -4:] + 0.7 * 0.05, atol=1e-5)
    np.testing.assert_allclose(found[1], drawn[1, :4] - 0.7 * 0.05, atol=1e-5)


@pytest.mark.parametrize("kind", [Squashed, TanhNormal])
def test_the_prior_of_what_was_drawn_wider_is_corrected(kind):
    """Prior pi(a) / beta(a), with beta a mixture of pi and of pi with 3 times its deviation, worked with scipy.

    Under beta its mean is 1, and it makes the second moment of beta's draws that of pi.
    """
    mu, sigma, share, wide = np.array([0.2, -0.3]), np.array([0.1, 0.4]), 0.3, 3.0
    policy = kind(*(jnp.asarray(x, jnp.float32)[None] for x in (mu, sigma)))
    problem = line(wide=50.0)._replace(policy=lambda *_: policy, actions=2)
    planner = MCTS(MCTSConfig(candidates=4096, wide_share=share, wide=wide), problem)
    action, logits, _ = jax.jit(planner._look)(None, jax.random.key(0), jnp.zeros((1, 1)))
    inner = np.asarray(action[0], np.float64)
    inner = np.arctanh(inner) if kind is TanhNormal else inner  # the squash's slope is in pi and in beta alike
    density = lambda scale: norm.pdf(inner, mu, scale * sigma).prod(-1)
    ratio = density(1) / ((1 - share) * density(1) + share * density(wide))
    sure = abs(inner).max(-1) < 2  # float32 keeps little of an arctanh near 1
    np.testing.assert_allclose(np.exp(np.asarray(logits[0], np.float64))[sure], ratio[sure], rtol=2e-3)
    assert ratio.min() < 0.1 < 1.1 < ratio.max()
    found = np.exp(np.asarray(logits[0], np.float64))
    assert found.mean() == pytest.approx(1, abs=0.05)
    moment = (found[:, None] * np.square((inner - mu) / sigma))[sure].mean(0)
    np.testing.assert_allclose(moment, 1.0, atol=0.12)


def fork():
    """The first action decides for good: rightwards 5 a step and a critic's 10 but the episode ends, leftwards 1.

    The parameters say whether it ends.
    """

    def step(ends, key, latent, action):
        del key
        after = jnp.where(latent == 0, action, latent)
        right = after[..., 0] > 0
        reward = jnp.where(latent[..., 0] > 0, 5.0, jnp.where(latent[..., 0] < 0, 1.0, 0.0))
        return Arrival(after, reward - 0.01 * action[..., 0] ** 2, jnp.where(right, 1.0 - ends, 1.0))

    policy = lambda _, latent: Squashed(jnp.zeros_like(latent), jnp.full_like(latent, 0.6))
    return Problem(step, 1, 0.9, policy, lambda _, latent: jnp.where(latent[..., 0] > 0, 10.0, 0.0)[None])


FORKED = {
    "random": {"samples": 64, "horizon": 2, "elites": 8},
    "cem": {"samples": 64, "horizon": 2, "elites": 8, "iterations": 3},
    "icem": {"samples": 64, "horizon": 2, "elites": 8, "iterations": 3, "kept": 2},
    "mctx": {"simulations": 24, "candidates": 8, "considered": 8},
}


@pytest.mark.parametrize("name", sorted(FORKED))
def test_nothing_is_earned_beyond_an_end(name):
    """Where the episode ends lie the greater rewards and values: a planner goes there only if told it goes on."""
    entry = PLANNERS[name]
    config = dataclasses.replace(entry.config, **FORKED[name])
    planner = entry.make(config, fork())
    heeded, ignored = (planned(planner, jnp.zeros((8, 1)), params=jnp.float32(ends))[0] for ends in (1, 0))
    assert (heeded.action < 0).all()
    assert (ignored.action > 0).all()


def test_the_order_of_a_trees_candidates_means_nothing():
    """Candidates in another order, each with the noise of what may follow it: the same tree, valued the same.

    All of the root's are expanded, so that which come next depends on their worth and not on their places.
    """
    planner = SoftTree(dataclasses.replace(TREE, rounds=2, width=5, candidates=3, root_candidates=5), wavy())
    noise = trees.draw(jax.random.key(4), planner.shape, 4, 1)
    order = np.array([3, 0, 4, 2, 1])
    first = jnp.concatenate([noise.action[:, :5][:, order], noise.action[:, 5:]], 1)
    following = noise.gumbel[:, 5:].reshape((4, 5, 3))[:, order].reshape((4, 15))
    other = noise._replace(action=first, gumbel=jnp.concatenate([noise.gumbel[:, :5], following], 1))
    grow = jax.jit(lambda noise: planner.grow(None, STARTS, noise))
    grown, moved = grow(noise), grow(other)
    np.testing.assert_allclose(moved.worth.value[:, :, 0], grown.worth.value[:, :, 0], rtol=1e-5)
    np.testing.assert_allclose(moved.nodes.action[:, 1:6], grown.nodes.action[:, 1:6][:, order], rtol=1e-6)
    np.testing.assert_allclose(moved.worth.log_soft[:, 1:6], grown.worth.log_soft[:, 1:6][:, order], rtol=1e-3)
    np.testing.assert_allclose(np.exp(moved.worth.log_soft[:, 1:6]).sum(1), 1.0, rtol=1e-5)
    # The second round's nodes keep their order, for it is that of their chances; their parents have moved.
    np.testing.assert_allclose(moved.nodes.action[:, 6:], grown.nodes.action[:, 6:], atol=1e-6)
    np.testing.assert_array_equal(order[moved.nodes.edges.parent[:, 6:] - 1], grown.nodes.edges.parent[:, 6:] - 1)


@pytest.mark.parametrize("name", ["mppi", "icem", "random"])
def test_the_order_of_sequences_means_nothing(name):
    """Sequences tried in another order move the distribution to the same place, by the same weights."""
    fields = {"samples": 12, "elites": 5, "horizon": 2, "policy_samples": 0, "kept": 0}
    planner = Shooting(dataclasses.replace(PLANNERS[name].config, **fields), wavy())
    zero = jnp.zeros((4, 2, 1))
    none = jnp.full((4, 5), -jnp.inf)
    begun = Searched(zero, zero + 1, jnp.zeros((4, 5, 2, 1)), none, none)
    keys = jax.random.split(jax.random.key(0), 2)
    # With as many sequences given as are to be tried, none is drawn.
    improve = jax.jit(lambda tried: planner._improve(None, keys, STARTS, tried, begun, jax.random.key(1)))
    tried = jax.random.normal(jax.random.key(2), (4, 12, 2, 1))
    found, moved = improve(tried), improve(tried[:, jax.random.permutation(jax.random.key(3), 12)])
    for one, other in zip(found, moved, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    returns = roll(planner.problem, None, keys, STARTS, found.elite)[0]
    np.testing.assert_allclose(returns, found.returns, rtol=1e-5)
    sharpness = planner.config.temperature if name == "mppi" else 0.0
    raw = np.exp(sharpness * np.asarray(returns))
    np.testing.assert_allclose(found.weights, raw / raw.sum(1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("refine", [0, 4])
def test_the_units_of_rewards_do_not_matter_to_a_relative_temperature(refine):
    """Rewards and values times 1000, and all returns 2 more: the same action by the same weights.

    A temperature in units of the rewards is another one then.
    """
    plain = wavy()

    def plans(relative):
        rounds = 2 if relative and refine == 0 else 1
        fields = {"rounds": rounds, "refine": refine, "relative": relative, "choose": "mean", "temperature": 0.3}
        config = dataclasses.replace(TREE, **fields)

        @jax.jit
        def plan(scale, shift):
            def step(*given):
                arrival = plain.step(*given)
                # Of a return r + gamma V each part is shifted by its share.
                return arrival._replace(reward=scale * (arrival.reward + (1 - plain.discount) * shift))

            value = lambda *given: scale * (plain.value(*given) + shift)
            planner = SoftTree(config, plain._replace(step=step, value=value))
            return planner.plan(None, jax.random.key(5), STARTS, planner.initial(4))[0]

        return plan(1.0, 0.0), plan(1000.0, 2.0)

    one, other = plans(True)
    np.testing.assert_allclose(other.candidates, one.candidates, atol=2e-3)
    np.testing.assert_allclose(other.action, one.action, atol=2e-3)
    np.testing.assert_allclose(other.weights, one.weights, atol=2e-3)
    np.testing.assert_allclose(other.value, 1000 * (one.value + 2), rtol=2e-3)
    one, other = plans(False)
    assert (abs(other.weights - one.weights).max(1) > 0.1).sum() > 1
    assert abs(other.action - one.action).max() > 0.01


@pytest.mark.parametrize("name", ["icem", "mppi"])
def test_shooting_gains_by_the_plan_before(name):
    """With two iterations of few samples a plan that begins where the best one before left off is worth more.

    More than one that begins with nothing, and than one that begins with the plan before as it was, a step too late.
    """
    known, system = control.lqr(states=4, actions=2), control.make_lqr(4, 2)
    a, b, k = (jnp.asarray(x, jnp.float32) for x in (system.a, system.b, system.k))
    fields = {"samples": 32, "elites": 6, "horizon": 4, "iterations": 2, "policy_samples": 0, "max_std": 0.5}
    fields |= {"kept": 2} if name == "icem" else {}
    planner = Shooting(dataclasses.replace(PLANNERS[name].config, **fields), known.problem)
    before = known.begin(jax.random.key(6), 256)
    at, best = before, []
    for _ in range(4):
        best.append(-at @ k.T)
        at = at @ a.T + best[-1] @ b.T
    now = before @ a.T + best[0] @ b.T
    late = Warm(jnp.stack(best, 1), jnp.ones((256, 4)))
    warm = shifted(*late)

    @jax.jit
    def earned(carry):
        plan, _ = planner.plan(None, jax.random.key(7), now, carry)
        return roll(known.problem, None, jax.random.split(jax.random.key(8), 4), now, plan.sequence[:, None])[0][:, 0]

    for other in (planner.initial(256), late):
        gain = np.asarray(earned(warm) - earned(other))
        assert gain.mean() > 3 * gain.std() / 16


def test_one_candidate_is_a_walk_along_its_noise():
    """K = M = 1: what the root is worth is the R-step return of the policy's draws, step by step by hand.

    Every step has the key of its round, so the noise of the steps differs and is known.
    """
    rounds = 3
    fields = {"rounds": rounds, "width": 1, "candidates": 1, "paths": 1, "horizon": rounds, "mix": False}
    planner = SoftTree(dataclasses.replace(TREE, **fields), noisy_line())
    noise = trees.draw(jax.random.key(9), planner.shape, 4, 1)
    grown = jax.jit(lambda noise: planner.grow(None, STARTS, noise))(noise)
    s, total = np.asarray(STARTS, np.float64), 0.0
    for i in range(rounds):
        action = np.clip(-0.3 * s + 0.3 * np.asarray(noise.action[:, i]), -1, 1)
        kick = np.asarray(jax.random.normal(noise.keys[i], (4, 1)))
        after = s + action
        total += 0.9**i * (-(after**2) - 0.1 * action**2 + 10 * kick)
        s = after + kick
    total += 0.9**rounds * -2.0 * s**2
    np.testing.assert_allclose(grown.worth.value[0, :, 0], total[:, 0], rtol=1e-4)
    np.testing.assert_allclose(grown.nodes.latent[:, -1], s, rtol=1e-4)
