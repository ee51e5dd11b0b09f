"""The loop of the tests that learn: no folder, no log, and more optimisation, as they run for a while."""

import jax

from mbrl.envs import make_vector
from mbrl.evaluation.rollout import make_evaluate
from mbrl.runner.epoch import make_program


def epochs(config, seed=0, level=1):
    """Train until ``config.steps``; yield the program, the state and the metrics after each epoch."""
    program = make_program(config)
    state = program.init(jax.random.key(seed))
    while int(state.step) < config.prefill:
        state, _ = program.prefill(state)
    epoch = program.epoch.lower(state).compile(compiler_options={"xla_backend_optimization_level": level})
    while int(state.step) < config.steps:
        state, metrics = epoch(state)
        yield program, state, metrics


def evaluation(agent, env):
    """Return what tells a learned state's mean return over 32 fresh episodes."""
    evaluate = make_evaluate(agent, make_vector(env, 32), 32)
    return lambda state: float(evaluate(state.agent, jax.random.key(1)).returns.mean())
