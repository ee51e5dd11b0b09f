"""The report of a run: roll out, let the model dream, judge it, draw, write one page."""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mbrl.agents.base import Agent, Diagnosis
from mbrl.core.types import FIRST, LAST, PRNGKey, Sequence, as_dict
from mbrl.envs import VectorEnv, make_vector, unwrap
from mbrl.envs.base import VectorEnvironment
from mbrl.envs.physics import mechanism
from mbrl.evaluation import model as judge
from mbrl.evaluation.frames import FrameScore, image_tops
from mbrl.evaluation.rollout import Evaluation, make_evaluate, make_record
from mbrl.evaluation.statistics import Summary, summarise
from mbrl.runner import report_frames
from mbrl.runner.config import Config, to_yaml
from mbrl.runner.epoch import Program
from mbrl.runner.files import write_atomic
from mbrl.runner.guest import GuestProgram, GuestState
from mbrl.runner.loggers import Values, read_metrics
from mbrl.runner.pictures import from_images, from_vectors, image_key, innermost
from mbrl.runner.report_frames import extent
from mbrl.runner.rundir import RunDir
from mbrl.runner.seeds import evaluate_seeds, keys_of, pick
from mbrl.runner.state import TrainState
from mbrl.version import __version__
from mbrl.viz import draw, dream, figures
from mbrl.viz.report import Picture, Section, render

EPISODES = 20  # of the final evaluation
CONTEXT, HORIZON = 5, 50  # steps the model sees, and steps it then dreams
_ENVS, _LONGEST = 8, 1000  # environments recorded to judge the model, and at most so many agent steps of each
_ENVS_SEEN = 64  # environments at most, where there are images
_FILM = 240  # agent steps of the episode that is drawn
_LINES = 6  # dimensions of an observation that are drawn as lines


class Judged(NamedTuple):
    """What a world model says of the recording, and how good that is; arrays are on the host."""

    diagnosis: Diagnosis  # [T, N]
    assessment: judge.Assessment
    frames: dict[str, FrameScore]  # of the observations that are images
    gamma: float


class Found(NamedTuple):
    """What the report tells of; arrays are on the host."""

    rows: list[Values]
    evaluation: Evaluation  # of all seeds, one after the other
    summary: Summary  # of its returns; of several seeds, of their means
    by_seed: np.ndarray  # [S] mean return of each seed
    sequence: Sequence  # [T, N] the policy as it samples
    pose: Any  # joint positions [T, N, Q] and placed bodies' [T, N, M, 3] beside the sequence, None without joints
    judged: Judged | None  # None of an agent without a world model


def make_report(
    run_dir: str | Path, config: Config[Any], program: Program | GuestProgram, state: TrainState | GuestState
) -> Path:
    """Write ``report.html``, the pictures beside it and the films under ``videos/``; older ones are replaced.

    Args:
        run_dir: the run's folder.
        config: its config.
        program: made of that config.
        state: the trained state; it is only read.

    Returns:
        where the page is.
    """
    run = RunDir(Path(run_dir))
    found = _find(run, config, program, state)
    sections = [
        _learning(found, config),
        _evaluation(found, config, program.env),
        *_model(found, config, program.env),
        Section("Config", "Resolved; it runs again as it stands.", source=to_yaml(config)),
    ]
    for picture in (p for section in sections for p in section.pictures):
        write_atomic(run.path / picture.file, picture.content)
    title = f"{config.agent.name} on {config.env.name}"
    write_atomic(run.report, render(title, _header(found, config, state), sections))
    return run.report


def _find(run: RunDir, config: Config[Any], program: Program | GuestProgram, state: Any) -> Found:
    """Roll out and judge; the seeds are the report's own and the same each time."""
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(b"report"))
    evaluate_key, record_key, diagnose_key = jax.random.split(key, 3)
    agent, limit = program.agent, -(-config.env.time_limit // config.env.action_repeat)
    evaluate = evaluate_seeds(config, make_evaluate(agent, make_vector(config.env, EPISODES), EPISODES))
    evaluation = evaluate(state.agent, keys_of(config, lambda seed: jax.random.fold_in(evaluate_key, seed)))
    if isinstance(state, TrainState):  # what one model dreams is told of the first seed
        state = pick(config, state)
    window = CONTEXT + HORIZON
    wanted = _ENVS, -(-(min(limit, _LONGEST) + 1) // window) * window
    most = _ENVS_SEEN if isinstance(program.env, VectorEnv) else _ENVS  # in Python, each takes its own time
    environments, steps = extent(program.env.observation_spec, wanted, most, window)
    env = make_vector(config.env, environments)
    record = make_record(agent, env, steps, mode="train", probe=_probe(env))
    sequence, (pose, where) = jax.device_get(record(state.agent, record_key))
    judged = _judge(agent, state.agent, diagnose_key, sequence, (env, where)) if isinstance(agent, Agent) else None
    evaluation = jax.device_get(evaluation)
    by_seed = np.atleast_2d(evaluation.returns).mean(-1)
    evaluation = Evaluation(*(x.ravel() for x in evaluation))
    summary = summarise(by_seed if config.seeds > 1 else evaluation.returns)
    return Found(read_metrics(run), evaluation, summary, by_seed, sequence, pose, judged)


def _judge(agent: Agent, state: Any, key: PRNGKey, sequence: Sequence, seen: tuple[VectorEnvironment, Any]) -> Judged:
    """Let the model speak of a recording on the host, and judge it; ``seen`` is where and what ``_probe`` saw there."""
    diagnosis = jax.device_get(judge.make_diagnose(agent, CONTEXT, HORIZON)(state, key, sequence))
    assessment = judge.assess(sequence, diagnosis, agent.gamma, CONTEXT, HORIZON)
    env, where = seen
    found = innermost(env), where
    frames = report_frames.judge_frames(sequence, diagnosis, env.observation_spec, (CONTEXT, HORIZON), found)
    return Judged(diagnosis, assessment, frames, agent.gamma)


def _probe(env: VectorEnvironment) -> Callable[[Any], Any]:
    """Return what reads a pose (see ``Found``) and bodies off the vector environment's state, None without them."""

    def probe(state: Any) -> Any:
        if not isinstance(env, VectorEnv):
            return None, None
        base, inner = unwrap(env.env, state.env)
        physics = getattr(inner, "pipeline_state", getattr(inner, "data", None))  # Brax's, MuJoCo Playground's
        where = report_frames.bodies(base, inner)
        q = getattr(physics, "q", getattr(physics, "qpos", None))
        return None if q is None else (q, getattr(physics, "mocap_pos", None)), where

    return probe


def _header(found: Found, config: Config[Any], state: TrainState | GuestState) -> dict[str, str]:
    low, high = found.summary.low, found.summary.high
    device = jax.devices()[0]
    seconds = sum(row.get("time/epoch") or 0 for row in found.rows)
    return {
        "Return": f"{found.summary.mean:.1f} ± {found.summary.std:.1f}",
        "95 % interval of the mean": f"{low:.1f} to {high:.1f}",
        "Evaluated on": f"{len(found.evaluation.returns)} fresh episodes",
        "Env steps": f"{int(state.step):,}",
        **_counts(state),
        "Time learning": f"{seconds / 60:.1f} min" if seconds else "unknown",
        "Environment": config.env.name,
        "Agent": config.agent.name,
        **_seeds(found, config),
        "Versions": f"mbrl {__version__}, jax {jax.__version__}, Python {platform.python_version()}",
        "Machine": f"{jax.device_count()} {device.device_kind} device, {os.cpu_count()} cores, {platform.system()}",
    }


def _counts(state: TrainState | GuestState) -> dict[str, str]:
    if isinstance(state, GuestState):
        return {}
    return {
        "Updates": f"{int(state.updates):,}",
        "Skipped updates": str(int(state.faults.updates.sum())),
        "Broken physics steps": str(int(state.faults.physics.sum())),
    }


def _seeds(found: Found, config: Config[Any]) -> dict[str, str]:
    if config.seeds == 1:
        return {"Seed": str(config.seed)}
    listed = ", ".join(f"{config.seed + i}: {value:.1f}" for i, value in enumerate(found.by_seed))
    return {"Seeds": f"{config.seeds} in one program; the dream and the calibration are those of the first",
            "Return by seed": listed}


def _each(rows: list[Values], name: str, seeds: int) -> list[tuple[list[float], list[float]]]:
    """Return env steps and values of a metric for each of several seeds."""
    found = [(row["step"], row["seeds"][name]) for row in rows if name in row.get("seeds", {})]
    each = ([(step, values[i]) for step, values in found if values[i] is not None] for i in range(seeds))
    return [([float(step) for step, _ in pairs], [float(value) for _, value in pairs]) for pairs in each]


def _series(rows: list[Values], name: str) -> tuple[list[float], list[float]]:
    """Return env steps and values of a metric, where it has any."""
    pairs = [(row["step"] or 0, value) for row in rows if (value := row.get(name)) is not None]
    return [float(step) for step, _ in pairs], [float(value) for _, value in pairs]


def _learning(found: Found, config: Config[Any]) -> Section:
    rows = found.rows
    # A guest's every line tells of learning; of the runner's own agents, those after the prefill.
    learned = [row for row in rows if row.get("run/updates_per_step", 1)]
    pictures = [
        Picture(
            "learning_curve.png",
            figures.learning_curve(
                _series(rows, "episode/return"),
                _series(rows, "eval/return_mean"),
                _series(rows, "eval/return_std")[1] if config.seeds == 1 else None,
                _each(rows, "eval/return_mean", config.seeds) if config.seeds > 1 else (),
            ),
            "Return of an episode over the course of the run."
            + (f" Those of training are cut after {config.episode_limit} env steps." if config.episode_limit else ""),
        )
    ]
    for file, prefixes, caption in (
        ("losses.png", ("loss/",), "Losses, unweighted means over each epoch's updates."),
        ("signals.png", ("model/", "actor/", "critic/"), "What else the updates say of model, actor and critic."),
        ("training.png", ("train/",), "What the agent's own training loop says of itself."),
    ):
        names = sorted({name for row in learned for name in row if name.startswith(prefixes)})
        series = {_spell(name, prefixes): _series(learned, name) for name in names}
        if series:
            pictures.append(Picture(file, figures.small_multiples(series), caption))
    return Section("Learning", pictures=tuple(pictures))


def _spell(name: str, prefixes: tuple[str, ...]) -> str:
    """Return a metric's name as a title, without a prefix that all of its neighbours share."""
    return (name.removeprefix(prefixes[0]) if len(prefixes) == 1 else name.replace("/", ": ")).replace("_", " ")


def _evaluation(found: Found, config: Config[Any], env: VectorEnvironment) -> Section:
    returns, lengths, terminated = found.evaluation
    env_steps = np.asarray(lengths) * config.env.action_repeat
    summary = found.summary
    chart = figures.episodes(returns, env_steps, terminated, (summary.low, summary.high))
    film = _episode(found, env)
    return Section(
        "Evaluation",
        "The policy's mode on fresh episodes, with seeds that training never used; "
        "the first episode of each environment, however long.",
        {
            "Mean return": f"{summary.mean:.1f}",
            "Lowest, highest": f"{np.min(returns):.1f}, {np.max(returns):.1f}",
            "Mean length": f"{env_steps.mean():.0f} env steps",
            "Terminated": f"{int(np.sum(terminated))} of {len(terminated)}",
        },
        (Picture("evaluation.png", chart, "Returns of the episodes, and their lengths."), film),
    )


def _episode(found: Found, env: VectorEnvironment) -> Picture:
    """Return a film of the first episode recorded: drawn where there are joints, else as its observations."""
    timestep: Any = found.sequence.timestep
    ends = np.flatnonzero(timestep.step_type[:_FILM, 0] == LAST)
    steps = int(ends[0]) + 1 if ends.size else min(_FILM, len(timestep.reward))
    base, seen, image = innermost(env), as_dict(timestep.observation), image_key(env.observation_spec)
    said = found.judged.diagnosis.open_loop_observation if found.judged else seen
    model, key = mechanism(base), image or next(name for name in seen if name in said)
    what = f": the observation {key!r}."
    if model is not None and found.pose is not None:
        what = "."
        q, placed = found.pose
        q, placed = q[:steps, 0], placed if placed is None else placed[:steps, 0]
        frames = draw.draw(model, q, draw.aim(model, q, mocap=placed), mocap=placed)
    elif image:
        frames = from_images(seen[image][:steps, 0], image_tops(as_dict(env.observation_spec))[image], 160)
    else:
        (frames,) = from_vectors(None, seen[key][:steps, 0], [])
    every = 2 if steps > _FILM // 2 else 1
    film = dream.video(frames[::every], 40 if steps > _FILM // 8 else 160)
    return Picture("videos/episode.gif", film, f"An episode as the policy samples it, its first {steps} steps{what}")


def _model(found: Found, config: Config[Any], env: VectorEnvironment) -> list[Section]:
    """Return what is told of the world model, in a word where there is none."""
    if found.judged is None:
        text = f"{config.agent.name} has none: no prediction, dream, calibration or imagined return can be shown."
        return [Section("World model", text)]
    judged = found.judged
    return [
        _ahead(judged.assessment),
        *(report_frames.section(name, score, CONTEXT) for name, score in judged.frames.items()),
        _dream(found.sequence, judged, env),
        _calibration(judged.assessment),
        _returns(judged.assessment.returns, judged.gamma),
    ]


def _ahead(assessment: judge.Assessment) -> Section:
    curves = {("observation" if k == "state" else k): c for k, c in assessment.open_loop.items()}
    curves |= {"reward": assessment.open_loop_reward}
    name, curve = next(iter(curves.items()))
    facts = {}
    for k in (1, 15, HORIZON):
        if curve.windows[k - 1]:
            facts[f"{name}, {k} ahead"] = f"{curve.model[k - 1]:.3g} (copy: {curve.copy[k - 1]:.3g})"
    picture = figures.open_loop({k: (c.model, c.copy) for k, c in curves.items()})
    return Section(
        "Open-loop prediction",
        f"The model sees {CONTEXT} steps and then only the actions. Its error is measured in standard deviations of "
        "each dimension, beside that of repeating the last state seen; what lies behind the end of an episode does "
        f"not count. {curve.windows[0]} windows, of which {curve.windows[-1]} last to the end.",
        facts,
        (Picture("open_loop.png", picture, "Open-loop error over the horizon, beside copying the last state."),),
    )


def _dream(sequence: Sequence, judged: Judged, env: VectorEnvironment) -> Section:
    """Show the typical window: real above, dreamt below; the first image, else the first observation."""
    timestep: Any = sequence.timestep
    diagnosis, image = judged.diagnosis, image_key(env.observation_spec)
    if image:
        top = image_tops(as_dict(env.observation_spec))[image]
        return report_frames.dream(sequence, diagnosis, image, top, judged.frames[image], CONTEXT)
    ahead = judge.until_border(timestep.step_type == FIRST, CONTEXT, CONTEXT + HORIZON)
    key, predicted = next(iter(diagnosis.open_loop_observation.items()))
    truth = as_dict(timestep.observation)[key]
    start, number, steps = judge.typical_window(np.asarray(truth), np.asarray(predicted), ahead, CONTEXT)
    if not steps:
        return Section("The dream", f"No episode went on after the {CONTEXT} steps that the model sees.")
    cut = slice(start, start + CONTEXT + steps)
    real, dreamt = np.asarray(truth[cut, number]), np.asarray(predicted[cut, number])
    above, below = from_vectors(innermost(env), real, [dreamt])
    pictures = [
        Picture("dream.png", dream.film_strip(above, below, CONTEXT), "Real above, dreamt below."),
        Picture("videos/dream.gif", dream.moving_dream(above, below, CONTEXT), "The same, moving."),
    ]
    if real.ndim == 2:
        names, shown = _liveliest(key, real, np.asarray(truth))
        lines = figures.dream_lines(real[:, shown], dreamt[:, shown], CONTEXT, names)
        pictures.append(Picture("dream_lines.png", lines, "The dimensions of the observation that moved the most."))
    return Section(
        "The dream",
        f"After {CONTEXT} steps the model is blind and imagines what the recorded actions lead to. "
        "Shown is the window whose error is the median of all.",
        pictures=tuple(pictures),
    )


def _liveliest(key: str, window: np.ndarray, recording: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return names and places of the dimensions that move the most, measured by their spread in the recording."""
    spread = recording.std(axis=(0, 1))
    motion = window.std(axis=0) / np.where(spread > judge.CONSTANT, spread, np.inf)
    shown = np.sort(np.argsort(-motion, kind="stable")[:_LINES])
    return [f"{'observation' if key == 'state' else key}[{i}]" for i in shown], shown


def _calibration(a: judge.Assessment) -> Section:
    kinds: Callable[[judge.Calibration, judge.Calibration], Mapping[str, figures.Bins]]
    kinds = lambda near, far: {"filtered": near[:3], "open loop": far[:3]}
    picture = figures.calibration([
        ("predicted reward", "mean reward that came", kinds(a.reward, a.reward_ahead)),
        ("predicted probability of going on", "share that went on", kinds(a.discount, a.discount_ahead)),
    ])
    return Section(
        "Calibration",
        "On the diagonal a prediction means what it says. Filtered: the model has seen the observation that the reward "
        "came with; open loop: it has not.",
        {
            "Reward, mean square error": f"{a.reward.mse:.3g} (open loop: {a.reward_ahead.mse:.3g})",
            "Reward, calibration error": f"{a.reward.error:.3g} (open loop: {a.reward_ahead.error:.3g})",
            "Going on, Brier score": f"{a.discount.mse:.3g} (open loop: {a.discount_ahead.mse:.3g})",
            "Going on, calibration error": f"{a.discount.error:.3g} (open loop: {a.discount_ahead.error:.3g})",
        },
        (Picture("calibration.png", picture, "What came over what was predicted, for reward and discount."),),
    )


def _returns(gap: judge.ReturnGap, gamma: float) -> Section:
    text = (
        f"Real returns are discounted by {gamma:.4g}. Where an episode is cut off rather than terminated, the critic "
        "stands for what would have come; only steps count for which that is at most half of the weight, and the more "
        "it is, the paler the dot. A bias above zero is optimism: a model, or a critic, that is being exploited."
    )
    if not gap.real.size:
        return Section("Imagined and real return", f"{text} No step of this recording was far enough from its end.")
    picture = figures.returns(gap.real, gap.imagined, gap.value, gap.share)
    return Section(
        "Imagined and real return",
        text,
        {
            "Imagined, bias": f"{gap.imagined_gap.bias:+.3g}",
            "Imagined, correlation": f"{gap.imagined_gap.correlation:.3f}",
            "Critic, bias": f"{gap.value_gap.bias:+.3g}",
            "Critic, correlation": f"{gap.value_gap.correlation:.3f}",
            "Mean real return": f"{gap.real.mean():.4g}",
            "Steps compared": f"{gap.real.size:,}",
        },
        (Picture("imagined_return.png", picture, "Imagined returns and values over real discounted returns."),),
    )
