# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Look before acting
#
# Plan, draw what was imagined, and change one's mind, before a single action is executed.

# %%
import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.bench import control
from mbrl.planners import PLANNERS, make, with_cost
from mbrl.planners.tree import log_reach
from mbrl.viz import plans

# %% [markdown]
# A pendulum whose optimum is known; any `WorldModel` becomes such a problem by `mbrl.planners.from_model`, and a
# trained Dreamer has its own as `run.program.agent.problem`.

# %%
problem = control.pendulum().problem
planner = make(PLANNERS["soft_tree"].config, problem)
hanging = np.array([[np.pi - 0.3, 0.0]], np.float32)
plan, carry = jax.jit(planner.plan)(None, jax.random.key(0), hanging, planner.initial(1))
print("push", plan.action[0], "worth", plan.value[0], "for", int(plan.steps), "model steps")

# %% [markdown]
# The paths that were refined, and the tree they were found in.

# %%
folder = Path(tempfile.mkdtemp())
picture = plans.fan(plan.fan[0], plan.weights[0], plan.candidates[0], plan.action[0], ("angle", "speed"))
(folder / "fan.png").write_bytes(picture)
nodes = plan.tree.nodes
reach = np.exp(log_reach(planner.shape, nodes, plan.tree.worth.log_soft)[0])
edges = nodes.edges
picture = plans.tree(edges.parent[0], nodes.depth[0], reach, plan.tree.worth.value[0, 0], edges.present[0])
(folder / "tree.png").write_bytes(picture)
print(folder)

# %% [markdown]
# Do not cross this line: a cost of one's own takes one imagined latent and the action that led there, and returns a
# number. Left to itself the plan swings past 3.3 rad; with the cost it comes as close as it may.

# %%
crossing = with_cost(problem, lambda latent, _: 1e3 * jnp.maximum(latent[0] - 3.3, 0.0))
careful = make(planner.config, crossing)
kept, _ = jax.jit(careful.plan)(None, jax.random.key(0), hanging, careful.initial(1))
furthest = [float(one.fan[0, one.weights[0].argmax(), :, 0].max()) for one in (plan, kept)]
print("as far as", furthest[0], "rad, with the line", furthest[1])
assert furthest[0] > 3.4
assert furthest[1] < 3.31
picture = plans.fan(kept.fan[0], kept.weights[0], kept.candidates[0], kept.action[0], ("angle", "speed"))
(folder / "kept.png").write_bytes(picture)

# %% [markdown]
# Any other planner takes its place.

# %%
mppi = make(dataclasses.replace(PLANNERS["mppi"].config, samples=256), problem)
other, _ = jax.jit(mppi.plan)(None, jax.random.key(0), hanging, mppi.initial(1))
print("mppi pushes", other.action[0], "worth", other.value[0], "for", int(other.steps), "model steps")
