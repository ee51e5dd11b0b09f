"""The soft tree against answers that are known: expectimax, Gaussian integrals, Riccati, finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import Table, line, planned
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from mbrl.bench import control
from mbrl.core.distributions import Squashed
from mbrl.planners import tree as trees
from mbrl.planners.base import Arrival, Problem, Warm
from mbrl.planners.soft_tree import SoftTree, SoftTreeConfig
from mbrl.planners.tree import Noise, Shape
from mbrl.planners.tree_backup import Edges, backup, lower

WHOLE = SoftTreeConfig(
    rounds=4, width=3, candidates=3, depth=2, horizon=4, relative=False, mix=False, refine=0, choose="best"
)


@pytest.mark.parametrize("soft", [False, True])
def test_a_whole_tree_is_expectimax(soft):
    """With all actions to depth 2: temperature 0 is the maximum, an infinite one the prior's expectation."""
    table = Table()
    planner = SoftTree(dataclasses.replace(WHOLE, temperature=2e4 if soft else 1e-6), table.problem())
    states = jnp.arange(5)
    with jax.enable_x64(True):
        plan, _ = planned(planner, states)
        plan = jax.tree.map(np.asarray, plan._replace(tree=None))
    expected = np.array([table.expectimax(s, 2, soft) for s in range(5)])
    np.testing.assert_allclose(plan.value, expected, atol=2e-3 if soft else 2e-5)
    if not soft:
        best = [np.argmax([
            table.reward[s, a] + table.discount * table.going[s, a] * table.expectimax(table.following[s, a], 1)
            for a in range(3)
        ]) for s in range(5)]
        np.testing.assert_array_equal(plan.action.argmax(-1), best)


def quadrature(points):
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    return jnp.asarray(nodes)[:, None], jnp.asarray(np.log(weights / weights.sum()))


def soft_lqr(s, steps, tau, std, gain, critic, gamma):
    """V of s' = s + a, r = -s'² - a²/10 under the prior N(gain s, std²), KL-soft, by Gaussian integrals."""
    p, d = critic, 0.0
    for _ in range(steps):
        # Q = -(1 + gamma p)(s + a)² - a²/10 + gamma d, integrated against the prior.
        c = 1 + gamma * p
        quadratic = (c + 0.1) / tau + 1 / (2 * std**2)
        linear = -2 * c / tau + gain / std**2
        constant = c / tau + gain**2 / (2 * std**2)
        p = -tau * (linear**2 / (4 * quadratic) - constant)
        d = gamma * d - tau / 2 * np.log(2 * std**2 * quadratic)
    return -p * s**2 + d


@pytest.mark.parametrize(("steps", "points", "rounds"), [(1, 16, 1), (2, 4, 5)])
def test_the_soft_value_is_the_gaussian_integral(steps, points, rounds):
    shape = Shape(rounds, points, points, points, steps, temperature=6.0, relative=False, mix=False)
    states = np.array([-0.7, 0.0, 0.4, 1.1])
    with jax.enable_x64(True):
        eps, log_weight = quadrature(points)
        noise = Noise(jnp.zeros((4, rounds * points, 1)), jnp.zeros((4, points + (rounds - 1) * points**2)),
                      jax.random.split(jax.random.key(0), rounds), eps, log_weight)
        grow = jax.jit(lambda s: trees.grow(line(wide=50.0), shape, None, s, noise).worth.value[0, :, 0])
        found = np.asarray(grow(jnp.asarray(states)[:, None]))
    expected = soft_lqr(states, steps, 6.0, 0.3, -0.3, 2.0, 0.9)
    np.testing.assert_allclose(found, expected, atol=1e-6 if points > 4 else 1e-3)


def finite_lqr():
    """A small LQR whose critic knows nothing: over H steps the optimum is Riccati's with H to go."""
    system = control.make_lqr(3, 2)
    a, b, q, r, _, _ = (jnp.asarray(x, jnp.float32) for x in system)

    def step(params, key, x, u):
        del params, key
        reward = -jnp.einsum("bi,ij,bj->b", x, q, x) - jnp.einsum("bi,ij,bj->b", u, r, u)
        return Arrival(x @ a.T + u @ b.T, reward, jnp.ones_like(reward))

    policy = lambda _, x: Squashed(jnp.zeros((*x.shape[:-1], 2)), jnp.ones((*x.shape[:-1], 2)))
    value = lambda _, x: jnp.zeros(x.shape[:-1])[None]
    problem = Problem(step, 2, control.GAMMA, policy, value, -50.0, 50.0)
    return problem, control.riccati(*system[:4], control.GAMMA, 3)[-1]


def test_refined_plans_are_riccatis():
    """Value, first action and the value's derivative, by the envelope theorem with the displacements as constants."""
    problem, (p, k) = finite_lqr()
    config = SoftTreeConfig(horizon=3, refine=60, trust=50.0, mix=False, paths=2, width=4)
    planner = SoftTree(config, problem)
    x = jax.random.normal(jax.random.key(5), (6, 3))

    def value(x):
        plan, _ = planner.plan(None, jax.random.key(0), x, planner.initial(6))
        return plan.value.sum(), plan

    (_, plan), slope = jax.jit(jax.value_and_grad(value, has_aux=True))(x)
    x64 = np.asarray(x, np.float64)
    np.testing.assert_allclose(plan.value, -np.einsum("bi,ij,bj->b", x64, p, x64), rtol=1e-3)
    np.testing.assert_allclose(plan.action, -x64 @ k.T, atol=2e-2)
    np.testing.assert_allclose(slope, -2 * x64 @ p, atol=3e-2, rtol=1e-2)


def test_derivatives_through_the_growth():
    """Orders 1 and 2, by the state and by a parameter of the dynamics, to the last digit that differences show."""
    base = line(going=lambda s: jnp.exp(-jnp.square(s) / 4))

    def step(params, key, latent, action):
        return base.step(params, key, latent, params * action)

    problem = base._replace(step=step)
    config = SoftTreeConfig(rounds=2, width=3, candidates=3, refine=0, temperature=0.5)
    planner = SoftTree(config, problem)
    with jax.enable_x64(True):
        noise = trees.draw(jax.random.key(3), planner.shape, 2, 1)
        grown = lambda gain, s: planner.grow(gain, s, noise).worth.value[0, :, 0].sum()
        args = jnp.float64(0.8), jnp.array([[0.3], [-0.9]])
        check_grads(jax.jit(grown), args, order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mix", [False, True])
def test_derivatives_through_the_whole_search(mix):
    """Growth, refinement and its guard, orders 1 and 2; no action touches its bounds, where derivatives go on as if
    there were none.
    """
    base = line(going=lambda s: jnp.exp(-jnp.square(s) / 4), wide=50.0)

    def step(params, key, latent, action):
        return base.step(params, key, latent, params * action)

    shape = SoftTreeConfig(rounds=2, width=3, candidates=3, horizon=2, paths=2, temperature=0.5, mix=mix)
    planner = SoftTree(dataclasses.replace(shape, refine=2, through="unrolled"), base._replace(step=step))

    def found(gain, s):
        plan, _ = planner.plan(gain, jax.random.key(3), s, planner.initial(2))
        return plan.value.sum() + plan.sequence.sum()

    with jax.enable_x64(True):
        args = jnp.float64(0.8), jnp.array([[0.3], [-0.9]])
        check_grads(jax.jit(found), args, order=2, modes=["rev"], atol=1e-5, rtol=1e-5, eps=1e-5)


def test_the_unrolled_action_has_a_derivative():
    """The refined action of the line's LQR follows the state as its gain says: da/ds = -K."""
    problem = line(wide=50.0)
    config = SoftTreeConfig(horizon=2, refine=25, trust=50.0, mix=False, paths=1, width=2, candidates=2)
    planner = SoftTree(dataclasses.replace(config, through="unrolled"), problem)
    action = lambda s: planner.plan(None, jax.random.key(0), s[None], planner.initial(1))[0].action[0, 0]
    p, gain = 2.0, 0.0
    for _ in range(2):
        c = 1 + 0.9 * p
        gain = c / (c + 0.1)
        p = c * (1 - gain) ** 2 + 0.1 * gain**2
    with jax.enable_x64(True):
        value, slope = jax.jit(jax.value_and_grad(action))(jnp.array([0.4]))
    np.testing.assert_allclose((value, slope[0]), (-gain * 0.4, -gain), atol=1e-4)


def test_the_values_derivative_where_a_bound_binds():
    """Held at a tenth the best actions do not move with the state, and the value's slope is that of the two ways."""
    config = SoftTreeConfig(horizon=2, refine=30, trust=50.0, mix=False, paths=1, width=2, candidates=2)
    value = lambda s, planner: planner.plan(None, jax.random.key(0), s, planner.initial(2))[0].value.sum()
    for through in ("value", "unrolled"):
        planner = SoftTree(dataclasses.replace(config, through=through), line(wide=0.1, policy_std=1.0))
        with jax.enable_x64(True):
            slope = jax.jit(jax.grad(value), static_argnums=1)(jnp.array([[0.8], [-0.5]]), planner)
        # V = -(s - .1)² - .9 ((s - .2)² + .9 · 2 (s - .2)²) less what the actions cost, for a positive s.
        by_hand = [-2 * 0.7 - 0.9 * 2.8 * 2 * 0.6, 2 * 0.4 + 0.9 * 2.8 * 2 * 0.3]
        np.testing.assert_allclose(slope[:, 0], by_hand, rtol=1e-6)


def test_a_backup_worked_by_hand():
    """Root with two children, the first with one of its own."""
    row = lambda *x: jnp.array([x], jnp.float32)
    edges = Edges(jnp.array([[-1, 0, 0, 1]]), jnp.ones((1, 4), bool), row(0, 0, 0, 0), row(0, 1, 2, 3),
                  row(1, 1, 0.5, 1), jnp.array([[[10.0, 4, 6, 8]]]))
    worth = backup(edges, (1, 2, 1), 0.5, jnp.array([2.0]), True, 0.0)
    q3 = 3 + 0.5 * 8
    v1 = (4 + q3) / 2
    q1, q2 = 1 + 0.5 * v1, 2 + 0.25 * 6
    soft = 2 * np.log((np.exp(q1 / 2) + np.exp(q2 / 2)) / 2)
    np.testing.assert_allclose(worth.edge[0, 0, 1:], [q1, q2, q3], rtol=1e-6)
    np.testing.assert_allclose(worth.value[0, 0, 0], (10 + 3 * soft) / 4, rtol=1e-6)
    np.testing.assert_allclose(np.exp(worth.log_soft[0, 1]), 1 / (1 + np.exp((q2 - q1) / 2)), rtol=1e-5)


@pytest.mark.parametrize("critics", [1, 2])
def test_weights_sum_to_one_however_large_the_values(critics):
    """Tau is 0.5 beside values of ten million; Q of the three are as many, 1 less and 3 less."""
    row = lambda *x: jnp.array([x], jnp.float32)
    edges = Edges(jnp.array([[-1, 0, 0, 0]]), jnp.ones((1, 4), bool), row(0, 0, 0, 0), row(0, 1e7, 1e7 - 1, 1e7 - 3),
                  row(1, 1, 1, 1), jnp.zeros((critics, 1, 4)))
    worth = backup(edges, (1, 3), 1.0, jnp.array([0.5]), False, 0.0)
    weights = np.exp(np.array([0.0, -1.0, -3.0]) / 0.5)
    np.testing.assert_allclose(jnp.exp(worth.log_soft[0, 1:]), weights / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(worth.value[:, 0, 0], 1e7, rtol=1e-6)


def test_critics_share_one_choice():
    """Q of one critic is (1, 0), of the other (0, 1): whichever action is taken, the two expect 1/2 on average."""
    q = jnp.array([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    zero = jnp.zeros((1, 3))
    edges = Edges(jnp.array([[-1, 0, 0]]), jnp.ones((1, 3), bool), zero, zero, zero + 1, q)
    root = backup(edges, (1, 2), 1.0, jnp.array([1e-4]), False, 0.5).value[:, 0, 0]
    np.testing.assert_allclose(root, [0.5, 0.5], atol=1e-3)  # each critic's own choice would make it 1


@pytest.mark.parametrize("refine", [0, 3])
def test_no_action_outside_the_bounds_is_tried(refine):
    """The bounds are a tenth of what the best action and the policy ask for."""
    problem = line(wide=0.1, policy_std=1.0)
    config = SoftTreeConfig(rounds=2, width=4, candidates=4, refine=refine, paths=2, horizon=2, mix=False)
    start = jnp.array([[0.8], [-0.5]])
    plan, _ = planned(SoftTree(config, problem), start)
    assert (abs(plan.sequence) <= 0.1 + 1e-6).all()
    tree = plan.tree.nodes
    parent = jnp.take_along_axis(tree.latent[..., 0], jnp.maximum(tree.edges.parent, 0), 1)
    np.testing.assert_allclose(tree.latent[:, 1:, 0], (parent + tree.action[..., 0])[:, 1:], atol=1e-6)
    assert (abs(tree.action) <= 0.1 + 1e-6).all()
    if refine:
        np.testing.assert_allclose(plan.fan[:, :, 1], start[:, None] + plan.candidates, atol=1e-6)
        # Two steps of 0.1 towards 0 and the critic's 2 s² after them: nothing within the bounds is worth more.
        s = abs(np.asarray(start[:, 0]))
        near, there = s - 0.1, s - 0.2
        best = -(near**2) - 1e-3 + 0.9 * (-(there**2) - 1e-3 - 0.9 * 2 * there**2)
        assert (plan.value <= best + 1e-5).all()
        np.testing.assert_allclose(plan.sequence[:, 0, 0], -0.1 * np.sign(start[:, 0]), atol=1e-3)


@jax.jit
def fan_of_five(q, log_w, temperature):
    row = lambda x: jnp.concatenate([jnp.zeros(1), x])[None]
    edges = Edges(jnp.array([[-1, 0, 0, 0, 0, 0]]), jnp.ones((1, 6), bool), row(log_w), row(q), row(0 * q),
                  jnp.zeros((1, 1, 6)))
    worth = backup(edges, (1, 5), 1.0, temperature[None], False, 0.0)
    return worth.log_soft[0, 1:], worth.value[0, 0, 0]


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.05, 20.0), st.floats(-3, 3), st.floats(0.1, 10))
def test_soft_weights_improve_on_the_prior(seed, temperature, shift, scale):
    """E_q[Q] >= E_w[Q] >= min; the order of candidates does not matter; shifting and scaling Q changes no weight."""
    rng = np.random.default_rng(seed)
    q, log_w, order = rng.normal(size=5), rng.normal(size=5), rng.permutation(5)

    def run(q, log_w, temperature):
        log_soft, value = fan_of_five(*(jnp.asarray(x, jnp.float32) for x in (q, log_w, temperature)))
        return np.exp(np.asarray(log_soft)), float(value)

    soft, value = run(q, log_w, temperature)
    prior = np.exp(log_w) / np.exp(log_w).sum()
    assert soft.sum() == pytest.approx(1, abs=1e-5)
    assert soft @ q >= prior @ q - 1e-5
    assert prior @ q - 1e-4 <= value <= q.max() + 1e-4
    permuted, same = run(q[order], log_w[order], temperature)
    np.testing.assert_allclose(permuted, soft[order], atol=1e-5)
    assert same == pytest.approx(value, abs=1e-4)
    scaled, _ = run(scale * q + shift, log_w, scale * temperature)
    np.testing.assert_allclose(scaled, soft, atol=1e-3)


def test_edges_are_drawn_without_replacement_in_proportion_to_their_soft_weight():
    """Two children a and b with two candidates each, of which two are taken: both of a by q_a (q_a/2) / (1 - q_a/2)."""
    config = SoftTreeConfig(rounds=2, width=2, candidates=2, refine=0, paths=1, horizon=2, temperature=1.0)
    one, two = (SoftTree(dataclasses.replace(config, rounds=rounds), line()) for rounds in (1, 2))
    noise = trees.draw(jax.random.key(2), two.shape, 4096, 1)
    noise = noise._replace(action=jnp.broadcast_to(noise.action[:1], noise.action.shape))
    start = jnp.full((4096, 1), 0.5)
    soft = jax.jit(lambda s, noise: one.grow(None, s, noise))(start, noise).worth.log_soft
    q = np.exp(np.asarray(soft[0, 1:]))
    parent = jax.jit(lambda s, noise: two.grow(None, s, noise))(start, noise).nodes.edges.parent[:, 3:]
    both = [float((parent == child).all(1).mean()) for child in (1, 2)]
    assert abs(q[0] - q[1]) > 0.5
    np.testing.assert_allclose(both, q * (q / 2) / (1 - q / 2), atol=0.03)


def test_the_tree_takes_each_edge_once_and_passes_the_roots_weight_on():
    config = SoftTreeConfig(rounds=4, width=3, candidates=2, root_candidates=4, refine=0, horizon=4)
    planner = SoftTree(config, line())
    grown = jax.jit(lambda s, noise: planner.grow(None, s, noise))(
        jnp.linspace(-1, 1, 6)[:, None], trees.draw(jax.random.key(0), planner.shape, 6, 1))
    parent, slot = np.asarray(grown.nodes.edges.parent), np.asarray(grown.nodes.slot)
    present, depth = np.asarray(grown.nodes.edges.present), np.asarray(grown.nodes.depth)
    reach = np.exp(np.asarray(trees.log_reach(planner.shape, grown.nodes, grown.worth.log_soft)))
    for row in range(6):
        edges = [(p, s) for p, s, there in zip(parent[row], slot[row], present[row], strict=True) if there][1:]
        assert len(edges) == len(set(edges)) == 12
        assert all(s < (4 if p == 0 else 2) for p, s in edges)
        assert all(depth[row, i] == depth[row, parent[row, i]] + 1 for i in range(1, 13))
    leaves = reach[:, 1:] * (depth[:, 1:] == 1)
    np.testing.assert_allclose(leaves.sum(1), 1.0, atol=1e-5)  # the root's soft weight is all passed on


def test_pessimism_is_the_mean_less_deviations():
    values = jnp.array([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose(lower(values, 0.5), [2 - 0.5 * 1, 5.0], atol=1e-5)
    np.testing.assert_allclose(lower(values[:1], 0.5), values[0])


@pytest.mark.parametrize("refine", [0, 1])
def test_one_candidate_and_several_critics_have_derivatives(refine):
    """One candidate has no spread, and critics that agree have none either: neither root makes a derivative NaN."""
    problem = line()

    def value(params, latent):
        one = problem.value(params, latent)[0]
        return jnp.stack([one, one + params["apart"] * latent[..., 0]])

    policy = lambda params, latent: Squashed(params["actor"] * latent, jnp.full_like(latent, 0.3))
    config = SoftTreeConfig(rounds=1, width=1, candidates=1, paths=1, refine=refine, horizon=1, through="unrolled")
    planner = SoftTree(config, problem._replace(value=value, policy=policy))

    def found(params):
        plan, _ = planner.plan(params, jax.random.key(0), jnp.array([[0.4], [0.0]]), planner.initial(2))
        return (plan.value + plan.spread).sum()

    slope = jax.jit(jax.grad(found))
    for apart in (0.0, 0.3):
        along = slope({"actor": jnp.float32(-0.3), "apart": jnp.float32(apart)})
        assert np.isfinite(along["actor"])
        assert np.isfinite(along["apart"])
        assert along["actor"] != 0


def test_one_node_at_a_time_compares_the_roots_candidates():
    """The sequential search: what the first child is worth says nothing of how far candidates lie apart."""
    planner = SoftTree(SoftTreeConfig(rounds=6, width=1, candidates=4, refine=0, paths=1, depth=1, horizon=6), line())
    assert planner.shape.root == 4
    plan, _ = planned(planner, jnp.array([[-0.6], [0.5]]))
    grown = plan.tree
    children = (grown.nodes.edges.parent == 0) & grown.nodes.edges.present
    np.testing.assert_array_equal(children.sum(1), [4, 4])  # no deeper than one step there is nothing else to expand
    worth = np.where(children, lower(grown.worth.edge, 0.5), np.nan)
    np.testing.assert_allclose(grown.temperature, 0.1 * np.nanstd(worth, axis=1), rtol=0.05)


def test_the_plan_before_is_looked_at_among_more_candidates_than_a_round_takes():
    config = SoftTreeConfig(rounds=1, width=2, root_candidates=16, candidates=2, refine=0, paths=1, horizon=2)
    planner = SoftTree(config, line())
    warm = Warm(jnp.full((3, 2, 1), 0.77), jnp.ones((3, 2)))
    plan, _ = planned(planner, jnp.array([[-0.6], [0.2], [0.5]]), carry=warm)
    np.testing.assert_allclose(plan.tree.nodes.action[:, 1:].max(1)[:, 0], 0.77, rtol=1e-5)
