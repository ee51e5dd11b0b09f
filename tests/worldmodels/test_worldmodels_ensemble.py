import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dm_env import specs
from tiny_rssm import ACTION, OBSERVATION, STEP_TYPES, normal

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.worldmodels.base import WorldModel
from mbrl.worldmodels.ensemble import HIGHEST, LOWEST, SURE, Ensemble, EnsembleConfig, Latent, check

CONFIG = EnsembleConfig(members=3, layers=1, units=8)
KEY = jax.random.key(0)
LN2PI = math.log(2 * math.pi)


def make(observation=OBSERVATION, action=ACTION, **changes):
    return Ensemble(dataclasses.replace(CONFIG, **changes), observation, action)


MODEL = make()  # "pos" [2] and "time" []: D is 3, and y has 4 entries


def sequence(step_types=STEP_TYPES, seed=2):
    """Return a sequence ``[T + 1, B]`` of noise with its contexts; a LAST of entry 1 is a termination."""
    rng, lead = np.random.default_rng(seed), step_types.shape
    reward = normal(rng, *lead) * (step_types != FIRST)
    ended = (step_types == LAST) & (np.arange(lead[1]) == 1)
    observation = {"pos": 3 * normal(rng, *lead, 2), "time": normal(rng, *lead)}
    timestep = TimeStep(jnp.asarray(step_types), reward, jnp.asarray(1.0 - ended, jnp.float32), observation)
    seen = jnp.concatenate([observation["pos"], observation["time"][..., None]], -1)
    context = Latent(seen, *(jnp.zeros(lead) for _ in range(3)))
    return Sequence(timestep, jnp.tanh(normal(rng, *lead, 2)), context)


SEQUENCE = sequence()
START = jax.tree.map(lambda x: x[0], SEQUENCE.context)
init, loss, observe, measure = (jax.jit(verb) for verb in (MODEL.init, MODEL.loss, MODEL.observe, MODEL.measure))
imagine, step = jax.jit(MODEL.imagine, static_argnums=4), jax.jit(MODEL.step)
derive = jax.jit(jax.grad(lambda params, sequence: MODEL.loss(params, KEY, sequence)[0]))
INITIAL = init(KEY)
PARAMS = measure(INITIAL, SEQUENCE)
GOLDEN = {"observation": 3.5172391, "reward": 1.2759917, "discount": 0.6317689, "bounds": 42.0}


def told(model, mean, log_variance=-40.0, going=0.0):
    """Return parameters of members who each say the same whatever they see: member k ``mean[k]``."""
    shapes = jax.eval_shape(model.init, KEY)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    mean = np.asarray(mean, np.float32)  # [K, D + 1]
    ones = np.ones((len(mean), 1), np.float32)
    bias = np.concatenate([mean, np.full_like(mean, log_variance), going * ones], -1)
    params["members"][max(params["members"])]["bias"] = bias.ravel()
    still = lambda moments: moments._replace(variance=np.ones_like(moments.variance))
    bounds = {"low": np.full(model.width + 1, LOWEST), "high": np.full(model.width + 1, HIGHEST)}
    params |= {"bounds": bounds, "seen": still(params["seen"]), "change": still(params["change"])}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def test_it_is_a_world_model():
    assert isinstance(MODEL, WorldModel)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (3, 2)])
def test_shapes_at_the_door(steps, batch):
    experience = sequence(np.full((steps + 1, batch), MID, np.int32))
    params = jax.eval_shape(MODEL.init, KEY)
    total, output = jax.eval_shape(MODEL.loss, params, KEY, experience)
    assert total.shape == ()
    assert {name: x.shape for name, x in output.losses.items()} == dict.fromkeys(MODEL.weights, (steps, batch))
    assert all(x.shape == () for x in output.metrics.values())
    assert output.posterior.latent.observation.shape == (steps, batch, 3)
    dream = jax.eval_shape(lambda p: MODEL.imagine(p, KEY, MODEL.initial(batch), jnp.zeros((6, batch, 2)), 6), params)
    assert (dream.latent.observation.shape, dream.action.shape) == ((7, batch, 3), (6, batch, 2))
    assert dream.latent.going.shape == (7, batch)
    assert MODEL.features(MODEL.initial(batch)).shape == (batch, 4)


def test_a_state_reads_as_what_was_seen():
    latent = Latent(jnp.array([[3.0, -1.0, 0.0]]), jnp.array([0.5]), jnp.array([2.0]), jnp.array([math.log(3)]))
    prediction = MODEL.predict({}, latent)
    np.testing.assert_allclose(prediction.observation["pos"].mean(), [[3.0, -1.0]], rtol=1e-6)
    np.testing.assert_allclose(prediction.observation["time"].mean(), [[0.0]], atol=1e-7)
    np.testing.assert_allclose(prediction.reward.mean(), [0.5])
    np.testing.assert_allclose(prediction.reward.log_prob(jnp.array([0.5])), [-math.log(2) - LN2PI / 2], rtol=1e-6)
    np.testing.assert_allclose(prediction.discount.mean(), [0.75], rtol=1e-6)
    np.testing.assert_allclose(MODEL.features(latent), [[math.log(4), -math.log(2), 0.0, 1.0]], rtol=1e-6)


def one_step(change, reward, discount=1.0):
    """Return a sequence of one step ``[2, 1]`` from 0 by a change ``[3]``."""
    seen = jnp.stack([jnp.zeros(3), jnp.asarray(change, jnp.float32)])[:, None]
    observation = {"pos": seen[..., :2], "time": seen[..., 2]}
    rewards = jnp.array([[0.0], [reward]])
    timestep = TimeStep(jnp.full((2, 1), MID), rewards, jnp.array([[1.0], [discount]]), observation)
    return Sequence(timestep, jnp.zeros((2, 1, 2)), Latent(seen, *(jnp.zeros((2, 1)) for _ in range(3))))


def test_the_losses_by_hand():
    # Members say 0, 1 and 2 for every entry, with log-variance -2, whose bounds at -10 and .5 bend it by 8 %.
    params = told(MODEL, np.arange(3.0)[:, None] * np.ones(4), -2.0, going=math.log(3))
    total, output = loss(params, KEY, one_step([1.0, 1.0, 2.0], 3.0, discount=0.0))
    bent = 0.5 - math.log1p(math.exp(2.5))
    log_variance = -10 + math.log1p(math.exp(bent + 10))
    nll = lambda error: (error**2 * math.exp(-log_variance) + log_variance + LN2PI) / 2
    each = [sum(nll(x - said) for x in (1, 1, 2)) for said in (0, 1, 2)]
    losses = {name: float(x[0, 0]) for name, x in output.losses.items()}
    assert losses["observation"] == pytest.approx(np.mean(each), rel=1e-5)
    assert losses["reward"] == pytest.approx(np.mean([nll(3 - said) for said in (0, 1, 2)]), rel=1e-5)
    assert losses["discount"] == pytest.approx(math.log(4), rel=1e-5)  # it said ¾
    assert losses["bounds"] == pytest.approx(4 * 10.5)
    weighted = losses["observation"] + losses["reward"] + losses["discount"] + 0.01 * losses["bounds"]
    assert float(total) == pytest.approx(weighted, rel=1e-5)
    known = {
        "model/error": math.sqrt((0 + 0 + 1 + 4) / 4),
        "model/std": math.exp(log_variance / 2),
        "model/disagreement": math.sqrt(2 / 3),
        "model/going": 0.75,
    }
    assert {name: float(x) for name, x in output.metrics.items()} == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_beta_weighs_the_gradients_by_the_deviation_and_leaves_the_losses(beta):
    # Deviations of e^-2, e^-1, 1 (in the middle of the bounds, which bend nothing there) and errors of 1, 2, 3 and 4.
    params = told(MODEL, np.zeros((3, 4)))
    wide = {"low": jnp.full(4, -40.0), "high": jnp.full(4, 40.0)}
    log_variance = np.array([-4.0, -2.0, 0.0, 0.0])
    last = params["members"][max(params["members"])]
    last["bias"] = jnp.asarray(np.tile(np.concatenate([np.zeros(4), log_variance, [0.0]]), 3), jnp.float32)
    params |= {"bounds": wide}
    experience = one_step([1.0, 2.0, 3.0], 4.0)
    pulls, totals = [], []
    for model in (make(beta=0.0), make(beta=beta)):
        total, grads = jax.value_and_grad(lambda params, model=model: model.loss(params, KEY, experience)[0])(params)
        pulls.append(np.asarray(grads["members"][max(params["members"])]["bias"]).reshape(3, 9)[0])
        totals.append(total)
    np.testing.assert_allclose(*totals, rtol=1e-6)
    deviation, error = np.exp(log_variance / 2), np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(3 * pulls[0][:4], -error / deviation**2, rtol=1e-4)  # the mean over three members
    np.testing.assert_allclose(3 * pulls[1][:4], -error / deviation ** (2 - 2 * beta), rtol=1e-4)
    expected = (1 - error**2 / deviation**2) / 2 * deviation ** (2 * beta)
    np.testing.assert_allclose(3 * pulls[1][4:8], expected, rtol=1e-4)


def test_the_bounds_are_learned():
    # Their distance draws them together by its weight; a log-variance beyond them pushes them away.
    still = one_step([0.0] * 3, 0.0)

    def low(log_variance, beta):
        params, model = told(MODEL, np.zeros((3, 4)), log_variance), make(beta=beta)
        return jax.grad(lambda params: model.loss(params, KEY, still)[0])(params)["bounds"]["low"]

    np.testing.assert_allclose(low(-2.0, 0.0), [-0.01] * 4, atol=2e-3)
    # Where nothing was wrong it would rather be surer, by as much as its deviation of e^-5 weighs.
    np.testing.assert_allclose(low(-40.0, 0.0), [0.5 - 0.01] * 4, atol=2e-3)
    np.testing.assert_allclose(low(-40.0, 0.5), [0.5 * math.exp(-5) - 0.01] * 4, atol=1e-4)


def test_moments_scale_both_ways():
    # Changes have mean 10 and deviation 2 in every entry, observations mean 5 and deviation 4: what is said as 1.5
    # deviations is a change of 13; a target of 14 is 2 deviations, and so the likelihood does not know the units.
    moments = lambda size, mean, std: type(PARAMS["seen"])(jnp.full(size, mean), jnp.full(size, std**2), jnp.float32(1))
    params = told(MODEL, np.full((3, 4), 1.5), -2.0) | {"seen": moments(3, 5.0, 4.0), "change": moments(4, 10.0, 2.0)}
    plain = told(MODEL, np.full((3, 4), 1.5), -2.0)
    scaled = loss(params, KEY, one_step([14.0] * 3, 14.0))[1].losses
    unit = loss(plain, KEY, one_step([2.0] * 3, 2.0))[1].losses
    for name in unit:
        np.testing.assert_allclose(scaled[name], unit[name], rtol=1e-5)
    params |= {"bounds": sure(MODEL), "members": told(MODEL, np.full((3, 4), 1.5))["members"]}
    dream = imagine(params, KEY, MODEL.initial(3000), jnp.zeros((1, 3000, 2)), 1)
    np.testing.assert_allclose(dream.latent.observation[1], np.full((3000, 3), 13.0), rtol=1e-4)
    np.testing.assert_allclose(dream.latent.reward[1], np.full(3000, 13.0), rtol=1e-5)


def sure(model):
    """Return bounds that let log-variances be -40."""
    return {"low": jnp.full(model.width + 1, -60.0), "high": jnp.full(model.width + 1, 60.0)}


def test_measuring_takes_steps_and_no_borders():
    changed = PARAMS
    seen = np.asarray(SEQUENCE.context.observation)
    real = STEP_TYPES[1:] != FIRST
    np.testing.assert_allclose(changed["seen"].mean, seen[:-1][real].mean(0), rtol=1e-5)
    y = np.concatenate([seen[1:] - seen[:-1], np.asarray(SEQUENCE.timestep.reward)[1:, :, None]], -1)[real]
    np.testing.assert_allclose(changed["change"].mean, y.mean(0), rtol=1e-5)
    np.testing.assert_allclose(changed["change"].variance, y.var(0), rtol=1e-4)
    for name in ("members", "bounds"):
        jax.tree.map(np.testing.assert_array_equal, changed[name], INITIAL[name])


def test_a_border_teaches_nothing():
    _, output = loss(PARAMS, KEY, SEQUENCE)
    border = STEP_TYPES[1:] == FIRST
    assert border.any()
    for name in ("observation", "reward", "discount"):
        np.testing.assert_array_equal(np.asarray(output.losses[name] == 0), border)
    # What the episode before ended in has no part in the gradient of the step that begins the next.
    cut = SEQUENCE._replace(action=SEQUENCE.action.at[2, 0].set(9.0))  # at LAST of entry 0
    assert cut.timestep.step_type[2, 0] == LAST
    assert float(loss(PARAMS, KEY, cut)[0]) == float(loss(PARAMS, KEY, SEQUENCE)[0])
    assert float(loss(PARAMS, KEY, SEQUENCE._replace(action=SEQUENCE.action.at[1, 0].set(9.0)))[0]) != float(
        output.losses["bounds"][0, 0]
    )


def test_moments_and_experience_get_no_gradient():
    grads = derive(PARAMS, SEQUENCE)
    for name in ("seen", "change"):
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads[name]))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves((grads["members"], grads["bounds"])))


def test_each_member_learns_by_itself():
    def of_first(params):
        arrival = MODEL._arrive(params, *MODEL._to_all(jnp.ones((1, 3)), jnp.ones((1, 2))))
        return arrival.mean[0].sum()

    kernel = jax.jit(jax.grad(of_first))(PARAMS)["members"]["BlockDense_0"]["kernel"]
    assert (kernel[0] != 0).any()
    np.testing.assert_array_equal(kernel[1:], jnp.zeros_like(kernel[1:]))


def test_observing_is_stepping():
    whole = observe(PARAMS, KEY, START, SEQUENCE)
    latent = START
    for t in range(4):
        timestep = jax.tree.map(lambda x: x[t + 1], SEQUENCE.timestep)
        latent = step(PARAMS, KEY, latent, SEQUENCE.action[t], timestep)
        for ours, theirs in zip(latent, whole.latent, strict=True):
            np.testing.assert_allclose(ours, theirs[t], rtol=1e-4, atol=1e-5)
    # The loss finds the same states.
    for ours, theirs in zip(loss(PARAMS, KEY, SEQUENCE)[1].posterior.latent, whole.latent, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_first_forgets_what_was_before():
    latent = observe(PARAMS, KEY, START, SEQUENCE).latent
    first = STEP_TYPES[1:] == FIRST
    np.testing.assert_array_equal(latent.observation, SEQUENCE.context.observation[1:])
    for part, value in zip(latent[1:], (0.0, 1.0, SURE), strict=True):
        np.testing.assert_array_equal(np.asarray(part)[first], np.full(first.sum(), value, np.float32))
        assert (np.asarray(part)[~first] != value).all()


def test_a_seen_step_is_expected_by_the_mixture_of_all():
    # Rewards 0, 3 and 6 with deviation s: mean 3, variance s² + 6.
    params = told(MODEL, np.arange(3.0)[:, None] * [0, 0, 0, 3.0], 0.0, going=1.5) | {"bounds": sure(MODEL)}
    seen = jax.tree.map(lambda x: x[1], SEQUENCE.timestep)
    latent = step(params, KEY, MODEL.initial(2), jnp.zeros((2, 2)), seen)
    np.testing.assert_array_equal(latent.observation, SEQUENCE.context.observation[1])
    for part, value in zip(latent[1:], (3.0, math.sqrt(7), 1.5), strict=True):
        np.testing.assert_allclose(part, [value] * 2, rtol=1e-5)


def dealt(members, rows, horizon):
    """Return which member each row asked in each step ``[H, B]``: member k makes a change of exactly k."""
    model = make({"x": specs.Array((1,), np.float32)}, members=members)
    params = told(model, np.arange(members)[:, None] * np.ones(2)) | {"bounds": sure(model)}
    actions = jnp.zeros((horizon, rows, 2))
    dream = jax.jit(model.imagine, static_argnums=4)(params, KEY, model.initial(rows), actions, horizon)
    change = np.diff(np.asarray(dream.latent.observation)[..., 0], axis=0)
    np.testing.assert_allclose(change, np.round(change), atol=1e-3)
    np.testing.assert_allclose(dream.latent.reward[1:], np.round(change), atol=1e-6)  # of the same member
    return np.round(change).astype(int)


@pytest.mark.parametrize(("members", "rows"), [(1, 2), (3, 7), (4, 3)])
def test_rows_are_dealt_to_all_members_alike(members, rows):
    steps = 600 if rows == 7 else 3
    asked = dealt(members, rows, steps)
    for step in asked:
        counts = np.bincount(step, minlength=members)
        assert counts.max() - counts.min() <= 1
        np.testing.assert_array_equal(step, np.resize(step[:members], rows))
    if steps > 3:
        # A row's member is uniform, and new in every step.
        for row in asked.T:
            np.testing.assert_allclose(np.bincount(row, minlength=3) / steps, [1 / 3] * 3, atol=0.07)
            assert (row[1:] == row[:-1]).mean() == pytest.approx(1 / 3, abs=0.07)


def test_imagined_noise_has_the_deviation_that_was_said():
    params = told(MODEL, np.zeros((3, 4)), math.log(4.0)) | {"bounds": sure(MODEL)}
    dream = imagine(params, KEY, MODEL.initial(3000), jnp.zeros((1, 3000, 2)), 1)
    np.testing.assert_allclose(np.asarray(dream.latent.observation[1]).std(0), [2.0] * 3, rtol=0.05)
    np.testing.assert_allclose(dream.latent.reward_std[1], np.full(3000, 2.0), rtol=1e-5)


def test_a_policy_and_its_own_actions_dream_the_same():
    policy = lambda latent, _: jnp.tanh(latent.observation[:, :2])
    dream = jax.jit(lambda params: MODEL.imagine(params, KEY, START, policy, 3))(PARAMS)
    again = imagine(PARAMS, KEY, START, dream.action, 3)
    np.testing.assert_allclose(again.latent.observation, dream.latent.observation, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(dream.latent.observation[0], START.observation)


def test_the_pathwise_gradient_is_there():
    reach = lambda action, params: MODEL.imagine(params, KEY, START, action, 2).latent.observation[2].sum()
    slopes = jax.jit(jax.grad(reach, argnums=(0, 1)))
    action, params = slopes(jnp.full((2, 2, 2), 0.5), PARAMS)
    assert (action != 0).all()
    # Also to the deviation, through the noise.
    assert (params["bounds"]["high"][:3] != 0).all()
    # Beyond the box actions act as at its border, and keep a gradient.
    outside, border = (slopes(jnp.full((2, 2, 2), size), PARAMS)[0] for size in (2.0, 1.0))
    np.testing.assert_allclose(outside, border / 2, rtol=1e-4)


ARRIVING = make(discount_of="arrival")


@pytest.fixture(scope="module")
def arriving():
    return jax.jit(ARRIVING.init)(KEY) | {"seen": PARAMS["seen"], "change": PARAMS["change"]}


def test_without_a_network_for_it_nothing_else_is_drawn_otherwise(arriving):
    assert "end" not in PARAMS
    kernel = lambda params: params["members"]["BlockDense_0"]["kernel"]
    np.testing.assert_array_equal(kernel(arriving), kernel(PARAMS))


def test_the_state_arrived_in_tells_the_end(arriving):
    going_at = jax.jit(ARRIVING._going)
    dream = jax.jit(ARRIVING.imagine, static_argnums=4)(arriving, KEY, START, jnp.zeros((2, 2, 2)), 2)
    np.testing.assert_allclose(dream.latent.going[1:], going_at(arriving, dream.latent.observation[1:]), rtol=1e-5)
    particles = jax.tree.map(lambda x: jnp.repeat(x[:, None], 6, 1), START)
    moved = jax.jit(lambda p, z: ARRIVING.propagate(p, KEY, z, jnp.zeros((2, 2)), keep=True))(arriving, particles)
    np.testing.assert_allclose(moved.going, going_at(arriving, moved.observation), rtol=1e-5)
    seen = jax.jit(ARRIVING.observe)(arriving, KEY, START, SEQUENCE).latent
    real = STEP_TYPES[1:] != FIRST
    np.testing.assert_allclose(seen.going[real], going_at(arriving, seen.observation)[real], rtol=1e-5)
    assert (np.asarray(seen.going)[~real] == SURE).all()
    # A border apart, the loss is that of the states arrived in, whatever was done to get there.
    going = np.asarray(going_at(arriving, SEQUENCE.context.observation[1:]))
    with_actions = lambda action: jax.jit(ARRIVING.loss)(arriving, KEY, SEQUENCE._replace(action=action))[1]
    output = with_actions(SEQUENCE.action)
    over = np.asarray(SEQUENCE.timestep.discount[1:]) == 0
    expected = np.where(over, np.logaddexp(0, going), np.logaddexp(0, -going)) * real
    assert over.any()
    np.testing.assert_allclose(output.losses["discount"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(with_actions(0 * SEQUENCE.action).losses["discount"], output.losses["discount"])
    slope = jax.jit(jax.grad(lambda p: ARRIVING.loss(p, KEY, SEQUENCE)[1].losses["discount"].sum()))(arriving)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(slope["end"]))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope["members"]))


def test_golden_loss():
    means = {name: float(x.mean()) for name, x in loss(PARAMS, KEY, SEQUENCE)[1].losses.items()}
    assert means == pytest.approx(GOLDEN, rel=1e-4)


# x' = 0.9 x + 0.5 a + noise of deviation 0.05, reward x - a, seen for x and a in [-1, 1]; over when a > 0.5.
NOISE = 0.05


def linear(key, batch=256):
    x_key, a_key, noise_key = jax.random.split(key, 3)
    x = jax.random.uniform(x_key, (batch, 1), minval=-1.0)
    action = jax.random.uniform(a_key, (batch, 1), minval=-1.0)
    after = 0.9 * x + 0.5 * action + NOISE * jax.random.normal(noise_key, (batch, 1))
    two = lambda one, other: jnp.stack([one, other])
    zero = jnp.zeros(batch)
    going = (action[:, 0] <= 0.5).astype(jnp.float32)
    timestep = TimeStep(jnp.full((2, batch), MID), two(zero, (x - action)[:, 0]), two(zero, going), two(x, after))
    return Sequence(timestep, two(action, action), Latent(two(x, after), *(two(zero, zero) for _ in range(3))))


@pytest.fixture(scope="module")
def trained():
    model = make(
        specs.Array((1,), np.float32), specs.BoundedArray((1,), np.float32, -1, 1), units=24, layers=2, members=4
    )
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, 1000))

    def update(carry, key):
        params, state = carry
        data = linear(key)
        params = model.measure(params, data)
        grads = jax.grad(lambda params: model.loss(params, KEY, data)[0])(params)
        updates, state = optimiser.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(key):
        params = model.init(key)
        return jax.lax.scan(update, (params, optimiser.init(params)), jax.random.split(key, 1000))[0][0]

    def ask(x, action):
        arrival = model._arrive(params, *model._to_all(x, action))
        return arrival, model._changes(params, arrival)

    params = train(KEY)
    return jax.jit(ask)


def test_linear_dynamics_are_recovered_with_their_noise(trained):
    data = jax.jit(linear)(jax.random.key(1))
    x, action = data.timestep.observation[0], data.action[0]
    arrival, (change, std) = trained(x, action)
    expected = jnp.concatenate([0.5 * action - 0.1 * x, x - action], -1)
    error = np.sqrt(np.square(np.asarray(change) - np.asarray(expected)).mean((0, 1)))
    assert (error < 0.02).all(), error
    np.testing.assert_allclose(np.asarray(std)[..., 0].mean(1), [NOISE] * 4, rtol=0.15)
    assert np.asarray(std)[..., 1].mean() < 0.03  # the reward is certain
    clear = np.abs(np.asarray(action)[:, 0] - 0.5) > 0.1
    right = (np.asarray(arrival.going) > 0) == (np.asarray(action)[:, 0] <= 0.5)
    assert right[:, clear].mean() > 0.99


def test_members_disagree_where_nothing_was_seen(trained):
    spread = lambda low, high: trained(np.linspace(low, high, 256, dtype=np.float32)[:, None], np.zeros((256, 1)))
    near, far = (np.asarray(spread(*where)[0].mean).std(0).mean() for where in ((-1, 1), (4, 6)))
    assert far > 5 * near, (near, far)


def test_images_are_refused():
    with pytest.raises(UserError, match="this world model reads vectors"):
        make({"image": specs.Array((8, 8, 3), np.uint8)})


@pytest.mark.parametrize("name", [name for name, value in vars(CONFIG).items() if not isinstance(value, str)])
def test_every_number_of_the_config_is_checked(name):
    with pytest.raises(UserError, match=f"worldmodel.{name} "):
        check(dataclasses.replace(CONFIG, **{name: type(getattr(CONFIG, name))(-1)}))


@pytest.mark.parametrize("beta", [1.5, math.inf, math.nan])
def test_a_power_beyond_all_measure_is_refused(beta):
    with pytest.raises(UserError, match=r"worldmodel\.beta must lie in \[0, 1\]; got"):
        check(dataclasses.replace(CONFIG, beta=beta))


def test_a_discount_of_anything_else_is_told_where_nothing_checks_types():
    config = dataclasses.replace(CONFIG)
    object.__setattr__(config, "discount_of", "arriving")  # past what checks types in tests alone
    with pytest.raises(UserError) as error:
        check(config)
    assert str(error.value) == "unknown worldmodel.discount_of 'arriving'; did you mean 'arrival'?"


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("rows", "share"), [(1, 1), (2, 4)])
def test_every_member_moves_its_share_of_the_particles(keep, rows, share):
    # Member k moves everything by k + 1 and has next to no doubt: where a particle is tells who moved it.
    params = told(MODEL, np.arange(1.0, 4.0)[:, None] * np.ones(4))
    particles = jax.tree.map(lambda x: jnp.zeros((rows, 3 * share, *x.shape[1:])), MODEL.initial(1))
    move = jax.jit(lambda key, z: MODEL.propagate(params, key, z, jnp.zeros((rows, 2)), keep=keep))
    moves, before = [], particles
    for key in jax.random.split(KEY, 6):
        after = move(key, before)
        moved = np.round(after.observation - before.observation)
        assert (moved == moved[:1, :, :1]).all()  # all rows and entries alike
        assert sorted(moved[0, :, 0]) == sorted([1, 2, 3] * share)
        np.testing.assert_allclose(after.reward, moved[..., 0], rtol=1e-2)
        moves.append(moved[0, :, 0])
        before = after
    kept = all((one == moves[0]).all() for one in moves)
    assert kept == keep
    if keep:
        np.testing.assert_array_equal(moves[0], np.repeat([1, 2, 3], share))


def test_particles_of_one_member_are_told_apart_by_its_doubt():
    params = told(MODEL, np.zeros((3, 4)), log_variance=0.0)
    particles = jax.tree.map(lambda x: jnp.zeros((2, 3000, *x.shape[1:])), MODEL.initial(1))
    moved = MODEL.propagate(params, KEY, particles, jnp.zeros((2, 2)), keep=True).observation
    # With the upper bound at .5 the logarithm of the variance is .5 - log(1 + e^.5).
    assert float(moved.std()) == pytest.approx(math.exp((0.5 - math.log1p(math.exp(0.5))) / 2), rel=0.02)
    assert abs(np.corrcoef(moved[0, :, 0], moved[1, :, 0])[0, 1]) < 0.1
    assert abs(np.corrcoef(moved[0, :, 0], moved[0, :, 1])[0, 1]) < 0.1
