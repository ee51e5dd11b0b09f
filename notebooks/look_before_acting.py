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
# A cost of one's own: pushing is dear. It takes one latent and one action and returns a number.

# %%
dear = make(planner.config, with_cost(problem, lambda _, action: 20.0 * action[0] ** 2))
shy, _ = jax.jit(dear.plan)(None, jax.random.key(0), hanging, dear.initial(1))
print("push", plan.action[0], "with the cost", shy.action[0])
assert abs(shy.action[0, 0]) < abs(plan.action[0, 0])

# %% [markdown]
# Any other planner takes its place.

# %%
mppi = make(dataclasses.replace(PLANNERS["mppi"].config, samples=256), problem)
other, _ = jax.jit(mppi.plan)(None, jax.random.key(0), hanging, mppi.initial(1))
print("mppi pushes", other.action[0], "worth", other.value[0], "for", int(other.steps), "model steps")
