"""Run folders written by hand, as a run would have left them."""

import json

import yaml


def write_run(path, env="toy/hill", agent="dreamer", seed=0, seeds=1, scores=(), steps=None, **changes):
    """Write a run that was evaluated every 10 env steps.

    ``scores`` are the evaluations, of several seeds a list of each. ``steps`` is its budget, by default what it
    reached; ``changes`` are further settings by dotted key.
    """
    reached = 10 * len(scores)
    config = {
        "agent": {"name": agent, "size": "1m", "behaviour": {"gradient": "auto"}, "optim": {"rate": 1e-4}},
        "env": {"name": env, "time_limit": 1000},
        "evaluation": {"every": 10}, "checkpoint": {"every": 10},
        "seed": seed, "seeds": seeds, "steps": reached if steps is None else steps, "run_dir": "", "max_faults": 100,
    }
    for key, value in changes.items():
        group = config
        *groups, last = key.split(".")
        for name in groups:
            group = group[name]
        group[last] = value
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [json.dumps(_line(10 * number, score, seeds)) + "\n" for number, score in enumerate(scores, 1)]
    (path / "metrics.jsonl").write_text("".join(lines))
    return path


def _line(step, score, seeds):
    line = {"step": step, "fault/updates": 0.0, "fault/physics": 0.0}
    if seeds == 1:
        return line | {"eval/return_mean": score}
    return line | {"eval/return_mean": sum(x or 0 for x in score) / seeds, "seeds": {"eval/return_mean": list(score)}}


def log_faults(path, count):
    """Let the run's last line tell of so many faults."""
    *lines, last = (path / "metrics.jsonl").read_text().splitlines()
    lines.append(json.dumps(json.loads(last) | {"fault/physics": count}))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
