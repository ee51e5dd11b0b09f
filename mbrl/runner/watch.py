"""Films of episodes: an environment under actions without a mind, and a run's agent beside what its model says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Array

from mbrl.agents.base import Agent
from mbrl.core.errors import UserError
from mbrl.core.types import LAST, PRNGKey, Sequence, TimeStep, as_dict
from mbrl.envs import ENVS, EnvConfig, VectorEnv, make, make_vector
from mbrl.envs.base import Environment, VectorEnvironment
from mbrl.envs.dm import HostEnv
from mbrl.envs.physics import mechanism
from mbrl.envs.render import make_render
from mbrl.envs.trees import strong
from mbrl.evaluation.frames import image_tops
from mbrl.evaluation.model import CONSTANT, make_diagnose
from mbrl.evaluation.rollout import make_record
from mbrl.runner import seeds
from mbrl.runner.files import write_atomic
from mbrl.runner.measures import named_key
from mbrl.runner.pictures import from_images, from_vectors, image_key, innermost, seconds
from mbrl.runner.report_frames import image_errors
from mbrl.runner.reporter import Reporter
from mbrl.runner.restore import Loaded
from mbrl.runner.state import TrainState
from mbrl.viz import film, video
from mbrl.viz.draw import Frames

Policy: TypeAlias = Literal["random", "zero"]

_LIMITS = {"steps": (1, 100_000), "size": (16, 4096), "context": (1, 100_000)}
_FPS = 20.0  # where the environment does not say how long a step lasts


class Shot(NamedTuple):
    """How a film is taken."""

    steps: int = 200  # of the agent, at most; an episode that ends before ends the film
    seed: int = 0
    size: int = 256  # height of a picture in pixels
    camera: str | None = None
    context: int = 5  # steps the model sees before it imagines the rest


class Film(NamedTuple):
    """What is to be written."""

    frames: Frames
    fps: float
    note: str  # what is to be seen


def check(shot: Shot, out: Path | None) -> None:
    """Check what is asked for, before anything is made.

    Raises:
        UserError: a number out of its range, or a file that cannot be one of ours.
    """
    for name, (least, most) in _LIMITS.items():
        value = getattr(shot, name)
        if (held := min(max(value, least), most)) != value:
            raise UserError(f"{name} must be at {'least' if value < least else 'most'} {held}, not {value}")
    if not 0 <= shot.seed < 2**32:
        raise UserError(f"seed must lie between 0 and {2**32 - 1}, not be {shot.seed}")
    if out is None:
        return
    if out.suffix.lower() not in video.KINDS:
        raise UserError(f"a film's name must end in {' or '.join(video.KINDS)}, which {str(out)!r} does not")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {str(out.parent)!r} for the film; make it first")
    if out.is_dir():
        raise UserError(f"{str(out)!r} is a folder; name a file for the film")


def choose(out: Path | None, default: Path) -> tuple[Path, str]:
    """Return the file that a film goes to, and a sentence where it cannot be the kind that was asked for.

    Args:
        out: as asked for; None takes ``default``, as MP4 where that can be.
        default: a file whose ending does not matter.
    """
    wanted = default.with_suffix(".mp4") if out is None else out
    if wanted.suffix.lower() == ".gif" or video.find_ffmpeg():
        return wanted, ""
    return wanted.with_suffix(".gif"), 'it is a GIF, for MP4 needs an ffmpeg, which pip install "mbrl[video]" brings'


def save(film_: Film, path: Path) -> None:
    """Write a film in one step; the folder it is in is made where its parent is there."""
    write_atomic(path, video.encode(film_.frames, path.suffix.lower(), film_.fps))


def shoot_env(config: EnvConfig, policy: Policy, shot: Shot, told: Reporter) -> Film:
    """Film an episode of an environment under random actions, or under none.

    Raises:
        UserError: no such environment or camera, or one without a picture.
    """
    if isinstance(ENVS.get(config.name), HostEnv):
        raise UserError(f"environment {config.name!r} runs in Python and has no picture of its own")
    env = make(config)
    base, image = innermost(env), image_key(env.observation_spec)
    seen = image if not hasattr(base, "render") and mechanism(base) is None and shot.camera is None else None
    draw = None if seen else _renderer(env, shot)  # before anything is rolled out: it refuses what has no picture
    told.phase("compiling")
    states, timestep = jax.jit(partial(_wander, env, policy, shot.steps))(_key(shot))
    states, timestep = _episode((states, timestep), timestep)
    told.phase("drawing")
    if seen:
        top = image_tops(as_dict(env.observation_spec))[seen]
        pictures = from_images(np.asarray(as_dict(timestep.observation)[seen]), top, shot.size)
    else:
        assert draw is not None
        pictures = _drawn(draw, states)
    frames = film.moving([film.Row("", pictures)])
    what = {"random": "random actions", "zero": "actions that are all zero"}[policy]
    return _thinned(frames, env, config, f"{len(frames)} steps of {config.name} under {what}")


def shoot_run(run: Loaded, shot: Shot, told: Reporter) -> Film:
    """Film an episode of a trained agent's mode, and what its world model says of it.

    The rows are what was observed, the model's filtered reconstruction, and its imagination, which has seen the first
    ``shot.context`` steps and then only the actions. A camera adds a row: the world as it sees it. Of a run of several
    seeds it is the first.

    Raises:
        UserError: no such camera, or an environment that no camera can see.
    """
    config, agent = run.config, run.program.agent
    env = make_vector(config.env, 1)
    world = _world(env, config.env.name, shot)
    told.phase("compiling")
    state = seeds.pick(config, run.state) if isinstance(run.state, TrainState) else run.state
    record = make_record(agent, env, shot.steps, "eval", lambda state: state.env if world else None)
    found = record(state.agent, _key(shot))
    sequence, states = _episode(found, found.sequence.timestep)
    rows = []
    if world:
        told.phase("drawing")
        one = jax.tree.map(lambda leaf: leaf[:, 0], states)
        rows.append(film.Row("world", _drawn(world, one)))
    said = {}
    if isinstance(agent, Agent) and len(sequence.action) > shot.context:
        told.phase("imagining")
        diagnose = make_diagnose(agent, shot.context, len(sequence.action) - shot.context)
        told_of = jax.device_get(diagnose(state.agent, named_key(shot.seed, "dream"), sequence))
        said = {"reconstruction": told_of.observation, "imagination": told_of.open_loop_observation}
    told.phase("drawing")
    more, unit = _rows(env, jax.device_get(sequence), said, shot.size)
    frames = film.moving([*rows, *more], shot.context if said else 0, unit)
    return _thinned(frames, env, config.env, _note(run, len(frames), said, shot))


def _key(shot: Shot) -> PRNGKey:
    return named_key(shot.seed, "film")


def _note(run: Loaded, steps: int, said: dict[str, Any], shot: Shot) -> str:
    """Return what is to be seen, and why there is no dream where there is none."""
    name = run.config.agent.name
    note = f"{steps} steps of {name} on {run.config.env.name}"
    if said:
        return f"{note}; its imagination saw {shot.context} of them and then only the actions"
    if isinstance(run.program.agent, Agent):
        return f"{note}; that is not longer than the context, so nothing is imagined"
    return f"{note}, which has no world model that could imagine anything"


def _renderer(env: Environment, shot: Shot) -> Callable[[Any], Array]:
    """Return what draws one state of an environment, ``size`` pixels high and as wide as the images it shows, if any.

    Raises:
        UserError: it has no picture, or no such camera.
    """
    image = image_key(env.observation_spec)
    shape = as_dict(env.observation_spec)[image].shape if image else (1, 1)
    return make_render(env, shot.size, round(shot.size * shape[1] / shape[0]), shot.camera)


def _drawn(draw: Callable[[Any], Array], states: Any) -> Frames:
    """Return the pictures of states ``[T, ...]``, in colours also where there is one channel, of 0 and 1 perhaps."""
    pictures = np.asarray(jax.jit(partial(jax.lax.map, draw))(states))
    binary = pictures.shape[-1] == 1 and pictures.max() <= 1
    return from_images(pictures, 1 if binary else 255, pictures.shape[1])


def _world(env: VectorEnvironment, name: str, shot: Shot) -> Callable[[Any], Array] | None:
    """Return what draws a state of a run's environment, None where no camera is asked for."""
    if shot.camera is None:
        return None
    if not isinstance(env, VectorEnv):
        raise UserError(f"environment {name!r} runs in Python, so it has no camera; leave out --camera")
    return _renderer(env.env, shot)


def _wander(env: Environment, policy: Policy, steps: int, key: PRNGKey) -> tuple[Any, TimeStep]:
    """Return ``steps`` states and time steps, from a first one on, under actions that look at nothing."""
    reset_key, act_key = jax.random.split(key)

    def step(now: tuple[Any, TimeStep], key: PRNGKey) -> tuple[tuple[Any, TimeStep], tuple[Any, TimeStep]]:
        return strong(env.step(now[0], _action(env.action_spec, policy, key))), now

    return jax.lax.scan(step, strong(env.reset(reset_key)), jax.random.split(act_key, steps))[1]


def _action(spec: specs.Array, policy: Policy, key: PRNGKey) -> Array:
    if isinstance(spec, specs.DiscreteArray):
        return jnp.int32(0) if policy == "zero" else jax.random.randint(key, (), 0, spec.num_values)
    return jnp.zeros(spec.shape) if policy == "zero" else jax.random.uniform(key, spec.shape, minval=-1.0)


def _episode(found: Any, timestep: TimeStep) -> Any:
    """Return what was recorded, ``[T, ...]``, up to the first episode's end."""
    ends = np.flatnonzero(np.asarray(timestep.step_type) == LAST)  # of a single environment
    return jax.tree.map(lambda leaf: leaf[: ends[0] + 1], found) if ends.size else found


def _rows(
    env: VectorEnvironment, sequence: Sequence, said: dict[str, dict[str, np.ndarray]], size: int
) -> tuple[list[film.Row], str]:
    """Return the rows of an episode ``[T, 1]``, what was observed first, and the unit of their errors."""
    timestep: Any = sequence.timestep
    seen, image = as_dict(timestep.observation), image_key(env.observation_spec)
    # A key that the model does not say anything of, such as a task's number, is not compared.
    key = image or next(name for name in seen if all(name in x for x in said.values()))
    real, guesses = seen[key][:, 0], [np.asarray(x[key][:, 0]) for x in said.values()]
    if image:
        top = image_tops(as_dict(env.observation_spec))[image]
        pictures = [from_images(x, top, size) for x in (real, *guesses)]
        errors, unit = [image_errors(real, x, top) for x in guesses], " %"
    else:
        pictures = from_vectors(innermost(env), real, guesses, size)
        spread = real.std(axis=0)
        scaled = [(x - real) / np.where(spread > CONSTANT, spread, 1) for x in guesses]
        errors, unit = [np.sqrt(np.mean(x**2, axis=-1)) for x in scaled], " std"
    truth = film.Row("truth", pictures[0])
    others = zip(said, pictures[1:], errors, strict=True)
    return [truth, *(film.Row(name, *row, blind=name == "imagination") for name, *row in others)], unit


def _thinned(frames: Frames, env: Any, config: EnvConfig, note: str) -> Film:
    """Return a film in real time, where the environment tells of time, without more pictures than can be shown."""
    step = seconds(innermost(env))
    fps = 1 / (step * config.action_repeat) if step else _FPS
    every = video.thin(fps)
    return Film(frames[::every], fps / every, note)
