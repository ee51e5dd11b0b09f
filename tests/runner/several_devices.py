"""Runs the tiny Dreamer, or a toy, on one and on several devices; prints what happened as JSON. For a process
of its own.

Several devices of a CPU are there only if XLA is told so before it starts.
"""

import dataclasses
import json
import re
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import toy_learner
from tiny_run import CONFIG

import mbrl
from mbrl.envs import make_vector
from mbrl.envs.config import EnvConfig
from mbrl.evaluation.rollout import make_evaluate
from mbrl.replay.config import ReplayConfig
from mbrl.runner import devices
from mbrl.runner.compiled import compile_for
from mbrl.runner.epoch import make_program
from mbrl.runner.leaves import to_host
from mbrl.runner.seeds import evaluate_seeds, run_key

SPLIT = dataclasses.replace(
    CONFIG,
    num_envs=8,
    prefill=64,
    epoch=32,
    train_ratio=8.0,
    replay=dataclasses.replace(CONFIG.replay, capacity=512, batch_size=8, recent_fraction=0.25),
)

# Its parameters move by tenths, where Dreamer's first updates would hide a wrong one; the ring is full after 64 steps.
LEARNER = dataclasses.replace(
    toy_learner.CONFIG, num_envs=8, epoch=32, prefill=32, replay=ReplayConfig(capacity=64, batch_size=8, batch_length=4)
)


def train(config, epochs):
    """Return the losses of some epochs, the last state and the compiled epoch."""
    program = make_program(config)
    state = program.init(run_key(config))
    while int(state.step) < config.prefill:
        state, _ = program.prefill(state)
    compiled = program.epoch.lower(state).compile()
    losses = []
    for _ in range(epochs):
        state, metrics = compiled(state)
        losses.append({name: np.asarray(value).tolist() for name, value in metrics.items() if name.startswith("loss/")})
    return losses, state, compiled


def exchanges(compiled, kind):
    """Return how many numbers each exchange of a kind in the compiled program moves."""
    shapes = re.findall(rf"= \(?\w+\[([\d,]*)\][^=]* {kind}(?:-start)?\(", compiled.as_text())
    return [int(np.prod([int(n) for n in shape.split(",") if n], dtype=int)) for shape in shapes]


def rows():
    """Environments, replay and batches over eight devices."""
    alone, one, _ = train(SPLIT, 3)
    together, eight, compiled = train(dataclasses.replace(SPLIT, devices="all"), 3)
    leaf = eight.replay.data.timestep.reward
    params = lambda state: jnp.concatenate([x.ravel() for x in jax.tree.leaves(state.agent.params)])
    return {
        "alone": alone,
        "together": together,
        "updates": [int(one.updates), int(eight.updates)],
        "parameters": params(one).size,
        "difference": float(jnp.abs(params(one) - jax.device_put(params(eight), jax.devices()[0])).max()),
        "all_reduces": exchanges(compiled, "all-reduce"),
        "all_gathers": exchanges(compiled, "all-gather"),
        "replay": [leaf.shape, [shard.data.shape for shard in leaf.addressable_shards]],
        "envs": [shard.data.shape for shard in eight.env.returns.addressable_shards],
    }


def fsdp():
    """The same with the model split too: it learns as it would whole, and each device has its share."""
    alone, one, _ = train(SPLIT, 3)
    config = dataclasses.replace(SPLIT, devices=8, fsdp=True)
    together, eight, _ = train(config, 3)
    flat = lambda params: np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(params)])
    whole = jax.tree.map(lambda x: x.addressable_data(3), make_program(config).whole(eight.agent).params)
    here = lambda tree: [x.addressable_shards[0].data for x in jax.tree.leaves(tree)]
    return {
        "alone": alone,
        "together": together,
        "difference": float(np.abs(flat(one.agent.params) - flat(eight.agent.params)).max()),
        "bytes": [sum(x.nbytes for x in parts) for parts in (jax.tree.leaves(one.agent), here(eight.agent))],
        "optimiser": [x.shape for x in here(eight.agent.optimiser) if x.ndim],
        "whole": np.array_equal(flat(whole), flat(eight.agent.params)),
    }


def seeds():
    """Eight seeds, one on each device; the last of them alone."""
    alone, _, _ = train(dataclasses.replace(CONFIG, seed=7), 2)
    config = dataclasses.replace(CONFIG, seeds=8, devices=8)
    together, state, compiled = train(config, 2)
    evaluate = make_evaluate(make_program(config).agent, make_vector(config.env, 2), 2)
    keys = jax.random.split(jax.random.key(3), 8)
    apart = devices.evaluate_apart(devices.mesh(config), evaluate_seeds(config, evaluate))
    played = apart.lower(state.agent, keys).compile()
    last = jax.tree.map(lambda x: jax.device_put(x[7], jax.devices()[0]), state.agent)
    kinds = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    return {
        "alone": alone,
        "together": [{name: each[7] for name, each in losses.items()} for losses in together],
        "exchanges": [size for kind in kinds for one in (compiled, played) for size in exchanges(one, kind)],
        "returns": [played(state.agent, keys).returns[7].tolist(), evaluate(last, keys[7]).returns.tolist()],
        "params": [shard.data.shape[0] for shard in jax.tree.leaves(state.agent.params)[0].addressable_shards],
    }


def go(folder, *legs):
    """Train in a folder, each leg (devices, steps) going on where the one before has ended; return the results."""
    results = []
    for count, steps in legs:
        config = dataclasses.replace(LEARNER, devices=count, steps=steps, run_dir=str(folder))
        results.append(mbrl.train(config, resume=folder if results else None))
    return results


def numbers(folder):
    """The metrics, of several seeds each one's too, without the wall clock's figures."""
    parsed = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    each = lambda line: {f"seeds/{name}": values for name, values in line.pop("seeds", {}).items()}
    return [{k: v for k, v in (each(line) | line).items() if "time/" not in k} for line in parsed]


def moves():
    """A run that goes on on eight devices and then on one again, and one that stays."""
    with tempfile.TemporaryDirectory() as folder:
        stayed, moved = Path(folder) / "stayed", Path(folder) / "moved"
        (one,) = go(stayed, (1, 128))
        results = go(moved, (1, 64), (8, 96), (1, 128))
        alone, together = numbers(stayed), numbers(moved)
    ours, theirs = to_host(results[-1].state), to_host(one.state)
    pairs = {name: (ours.arrays[name], theirs.arrays[name]) for name in theirs.arrays}
    return {
        "alone": alone,
        "together": together,
        "devices": [len(result.state.replay.data.timestep.reward.sharding.device_set) for result in results],
        "same_kinds": ours.specs == theirs.specs,
        "different": [name for name, (x, y) in pairs.items() if not np.allclose(x, y, rtol=1e-5, atol=1e-5)],
    }


def cores():
    """Two seeds on two cores, which go on on one, and two that were on one from the start."""
    devices.cores = lambda: 2  # on whatever machine this runs
    with tempfile.TemporaryDirectory() as folder:
        split, whole = Path(folder) / "split", Path(folder) / "whole"
        config = dataclasses.replace(LEARNER, seeds=2, devices="auto")
        results = [
            mbrl.train(dataclasses.replace(config, steps=64, run_dir=str(split))),
            mbrl.train(dataclasses.replace(config, steps=128, devices=1), resume=split),
            mbrl.train(dataclasses.replace(config, steps=128, devices=1, run_dir=str(whole))),
        ]
        together, alone = numbers(split), numbers(whole)
    shapes = jax.eval_shape(results[0].program.init, run_key(config))
    return {
        "alone": alone,
        "together": together,
        "devices": [len(result.state.replay.data.timestep.reward.sharding.device_set) for result in results],
        "held": [compile_for(result.program.epoch, shapes).footprint.held for result in results],
    }


def frames():
    """Pictures on the host and on the devices: rows over eight of them, and eight seeds."""
    found = {}
    for name, more in {"rows": {}, "seeds": {"seeds": 8}}.items():
        config = dataclasses.replace(LEARNER, env=EnvConfig(name="probe/sight"), devices=8, **more)
        host = dataclasses.replace(config, replay=dataclasses.replace(config.replay, frames="host"))
        (_, plain, _), (_, apart, _) = train(config, 3), train(host, 3)
        pairs = zip(*(to_host(state).arrays.values() for state in (plain, apart)), strict=True)
        place = apart.replay.data.timestep.observation.sharding
        found[name] = {
            "same": all(np.array_equal(x, y) for x, y in pairs),
            "kind": place.memory_kind,
            "devices": len(place.device_set),
        }
    return found


FOUND = {"rows": rows, "cores": cores, "frames": frames, "fsdp": fsdp, "moves": moves, "seeds": seeds}
print(json.dumps(FOUND[sys.argv[1]]()))
