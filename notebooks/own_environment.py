# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # An environment of one's own
#
# One class and one registry line; the agent, the run folder and the report come with that. Everything is pure: `reset`
# and `step` take a state and return one.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

import mbrl
from mbrl.core.types import MID, TimeStep, restart
from mbrl.envs import ENVS
from mbrl.planners import PLANNERS, make
from mbrl.viz import plans


# %%
class Hill:
    """A ball on a line: the action pushes, the reward is highest at 0, and the episode never terminates by itself."""

    observation_spec = specs.Array((2,), np.float32, name="observation")
    action_spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0, name="action")

    def reset(self, key):
        state = jnp.array([jax.random.uniform(key, minval=-1.0), 0.0])
        return state, restart(state)

    def step(self, state, action):
        place, speed = state
        speed = 0.9 * speed + 0.1 * action[0]
        state = jnp.stack([place + speed, speed])
        return state, TimeStep(jnp.int32(MID), jnp.exp(-jnp.square(state[0])), jnp.float32(1), state)


ENVS["notebook/hill"] = Hill

# %% [markdown]
# Train for a few epochs, small enough for a laptop.

# %%
folder = Path(tempfile.mkdtemp()) / "hill"
config = mbrl.load_config(
    "quickstart",
    {"env": {"name": "notebook/hill", "time_limit": 50}, "steps": 3072, "run_dir": str(folder)},
)
run = mbrl.train(config)

# %% [markdown]
# Look inside: the whole run is one pytree.

# %%
print(mbrl.evaluate(run, episodes=8).returns.mean(), "of at most 50")
print({name: sum(x.size for x in jax.tree.leaves(part)) for name, part in run.state.agent.params.items()})
print(run.state.replay.data.timestep.observation.shape, "is the replay: rows, environments, observation")

# %% [markdown]
# And dream: after five steps that it saw, the model goes on with the actions alone. The error over the twenty steps
# that follow, beside the error of saying that nothing changes. Replayed sequences run on into the next episode, whose
# first state nobody could foresee: from there on a sequence does not count.

# %%
program, key = run.program, jax.random.key(0)
sequence, _ = program.ring.sample(run.state.replay, key)
diagnosis = jax.jit(program.agent.diagnose, static_argnums=3)(run.state.agent, key, sequence, 5)
truth, ahead = sequence.timestep.observation, slice(5, 25)
same_episode = jnp.cumsum(sequence.timestep.first()[ahead], axis=0) == 0


def mean_error(predicted):
    error = jnp.abs(predicted - truth)[ahead].mean(-1)
    return jnp.mean(error, axis=1, where=same_episode)


print("dreamt", np.round(mean_error(diagnosis.open_loop_observation["state"]), 3))
print("copied", np.round(mean_error(truth[4]), 3))

# %% [markdown]
# Look before acting: MPPI plans in what was learned, and the model says what the states that it imagined look like.

# %%
params, memory = run.state.agent.params, program.agent.initial(config.num_envs)
timestep = program.env.reset(key)[1]
seen = program.agent.act(run.state.agent, key, memory, timestep, "eval").carry
planner = make(PLANNERS["mppi"].config, program.agent.problem)
plan, _ = jax.jit(planner.plan)(params, key, seen.latent, planner.initial(config.num_envs))
imagined = program.agent.problem.look(params, plan.fan)["state"][0]
picture = plans.fan(imagined, plan.weights[0], plan.candidates[0], plan.action[0], ("place", "speed"))
(folder / "plan.png").write_bytes(picture)
print("at", timestep.observation[0], "it would push", plan.action[0], "and expects to come to", imagined[0, -1])
