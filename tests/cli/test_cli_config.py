import contextlib
import dataclasses
import functools
import io
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import hypothesis
import hypothesis.strategies as st
import pytest
import yaml

import mbrl
from mbrl.agents import AGENTS
from mbrl.cli import compilation, parsing, planner
from mbrl.cli import config as reader
from mbrl.cli.config import config_type, load
from mbrl.cli.evaluate import EvalArguments
from mbrl.cli.main import main
from mbrl.core.errors import UserError
from mbrl.envs import make
from mbrl.planners import PLANNERS
from mbrl.runner import train
from mbrl.runner.checks import check
from mbrl.runner.config import Config, to_dict, to_yaml

KNOWN = parsing.leaves(reader.config_type("dreamer"))
FOLDER = Path(__file__).parents[2] / "experiments"
EXPERIMENTS = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name not in {"suites", "sweeps"})


def value_at(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def sample(hint):
    """A value of a field's type that is no default."""
    kind = next(iter(parsing._kinds(hint)))
    if get_origin(kind) is Literal:
        return get_args(kind)[-1]
    if get_origin(kind) is tuple:
        return (sample(get_args(kind)[0]),) * 3
    return {int: 7, float: 0.71, str: "word", bool: True}[kind]


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "x.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_defaults_are_the_dataclasses_own():
    config = load()
    assert config == reader.config_type("dreamer")(agent=type(config.agent)())


def test_a_file_written_by_hand(write):
    text = "env: brax/hopper@mjx\nagent: dreamer\nseed: 3\n" "train_ratio: 1e-4\nreplay: {batch_size: 4}\nevaluation:\n"
    path = write(text)
    config = load(path)
    assert (config.env.name, config.agent.name, config.seed) == ("brax/hopper@mjx", "dreamer", 3)
    assert config.train_ratio == 1e-4  # which PyYAML reads as a string
    assert config.replay.batch_size == 4
    assert config.evaluation == load().evaluation


def test_whole_numbers_may_be_written_as_powers_of_ten(write):
    assert load(write("steps: 1e6")).steps == 1_000_000
    assert load(None, ["--steps", "25E3", "--seed=1_000"]).steps == 25_000


def test_the_size_has_a_short_name(write):
    assert load(None, ["--size", "12m"]) == load(write("size: 12m")) == load(None, {"agent.size": "12m"})
    with pytest.raises(UserError, match=r"agent\.size is given twice"):
        load(write("size: 12m\nagent: {size: 1m}"))


def test_an_unknown_agent_is_sought_where_it_was_written(write):
    path = write("agent: dreamr")
    with pytest.raises(UserError, match=f"^{path}: unknown agent 'dreamr'"):
        load(path)
    with pytest.raises(UserError, match=r"^unknown agent 'dremer'"):
        load(path, ["--agent", "dremer"])
    assert load(path, ["--agent", "dreamer"]).agent.name == "dreamer"


def test_overrides_come_on_top_of_the_file(write):
    path = write("seed: 3\nsteps: 10\nenv: {name: brax/ant, action_repeat: 2}")
    words = load(path, ["--seed", "5", "--env=brax/hopper", "--agent.behaviour.horizon", "10", "--run-dir=-x"])
    assert (words.seed, words.steps, words.env.name, words.env.action_repeat) == (5, 10, "brax/hopper", 2)
    assert (words.agent.behaviour.horizon, words.run_dir) == (10, "-x")
    mapping = {"seed": 5, "env": "brax/hopper", "agent": {"behaviour": {"horizon": 10}}, "run_dir": "-x"}
    assert load(path, mapping) == words


def test_a_planners_fields_are_there_with_its_name(write):
    """Set nowhere they are that planner's own; those of another one that a file names are left out."""
    words = ["--agent.planner", "cem", "--agent.planner.samples=17", "--agent.distil", "cross_entropy"]
    config = load(None, words)
    assert config.agent.planner == dataclasses.replace(PLANNERS["cem"].config, samples=17)
    assert config.agent.distil.name == "cross_entropy"
    nested = {"agent": {"planner": {"name": "cem", "samples": 17}, "distil": "cross_entropy"}}
    assert load(None, nested) == load(write(yaml.safe_dump(nested))) == load(write(to_yaml(config))) == config
    path = write(to_yaml(config))
    assert load(path, ["--agent.planner.samples", "9"]).agent.planner.samples == 9
    assert load(path, ["--agent.planner", "mctx"]).agent.planner == PLANNERS["mctx"].config
    assert load(path, {"agent.planner": "none", "agent.distil": "none"}).agent == load().agent
    assert "--agent.planner.samples" in parsing.help_text(reader.type_of(config), "mbrl", config)


def test_an_agent_that_always_plans_takes_another_planner_with_that_ones_numbers(write):
    pets = load(None, ["--agent", "pets"]).agent.planner
    assert (pets.name, pets.samples, pets.horizon) == ("cem", 400, 25)  # its own, not those of `cem`
    assert load(None, ["--agent", "pets", "--agent.planner", "cem"]).agent.planner == pets
    icem = load(None, ["--agent", "pets", "--agent.planner", "icem", "--agent.planner.horizon", "9"])
    assert icem.agent.planner == dataclasses.replace(PLANNERS["icem"].config, horizon=9)
    path = write("agent: {name: tdmpc2, planner: {iterations: 2}}")
    assert load(path, ["--agent.planner", "random"]).agent.planner == PLANNERS["random"].config
    kept = dataclasses.replace(load(None, {"agent": "tdmpc2"}).agent.planner, iterations=2)
    assert load(path, ["--agent.planner", "mppi"]).agent.planner == load(path).agent.planner == kept
    assert load(write(to_yaml(icem))) == icem


def test_a_run_is_evaluated_by_a_planner_as_it_has_it():
    own = load(None, ["--agent.planner", "cem", "--agent.planner.samples", "17", "--agent.planner.noise", "true"])
    without = dataclasses.replace(own.agent.planner, noise=False)  # which is for training
    assert (without.samples, reader.planner_of(own, "cem")) == (17, without)
    assert reader.planner_of(own, "icem") == PLANNERS["icem"].config
    assert reader.planner_of(own, "none").name == "none"
    muzero = load(None, ["--agent", "muzero"])
    assert reader.planner_of(muzero, "mctx") == muzero.agent.planner != PLANNERS["mctx"].config
    assert reader.planner_of(muzero, "soft_tree").refine == 0
    assert reader.planner_of(load(None, ["--agent", "mbpo"]), "mppi") == PLANNERS["mppi"].config


@pytest.mark.parametrize("agent", sorted(name for name, entry in AGENTS.items() if getattr(entry, "planners", None)))
def test_an_agents_own_planner_is_the_same_in_python_and_in_its_line(agent):
    own = AGENTS[agent].config().planner
    assert AGENTS[agent].planners[own.name] == own


def test_an_agent_whose_line_names_no_planners_has_its_own(monkeypatch):
    monkeypatch.setitem(AGENTS, "tdmpc2", AGENTS["tdmpc2"]._replace(planners={}))
    assert load(None, ["--agent", "tdmpc2", "--agent.planner.samples", "9"]).agent.planner.samples == 9
    with pytest.raises(UserError, match=r"^unknown agent.planner of tdmpc2 'cem'; known are mppi$"):
        load(None, ["--agent", "tdmpc2", "--agent.planner", "cem"])


def test_a_file_with_a_wrong_planner_is_named(write):
    path = write("agent: {name: muzero, planner: cem}")
    with pytest.raises(UserError, match=f"^{path}: unknown agent.planner of muzero 'cem'"):
        load(path)
    assert load(path, ["--agent.planner", "soft_tree"]).agent.planner.name == "soft_tree"


def test_a_command_plans_as_the_run_does_but_for_what_is_said(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    run = load(None, ["--agent", "muzero", "--agent.planner.simulations", "5"])
    (tmp_path / "config.yaml").write_text(to_yaml(run))
    words = [str(tmp_path), "--planner", "mctx"]
    said = planner.command(EvalArguments, [*words, "--planner.candidates", "3"], "mbrl eval")
    assert said.planner == dataclasses.replace(run.agent.planner, candidates=3)
    assert planner.command(EvalArguments, words[:1], "mbrl eval").planner is None
    assert planner.command(EvalArguments, [*words, "--help"], "mbrl eval") is None
    assert re.search(r"planner\.simulations INT(?s:.{,200}?)\(default: 5\)", capsys.readouterr().out)
    assert planner.command(EvalArguments, ["--planner", "mctx", "-h"], "mbrl eval") is None
    assert re.search(r"planner\.simulations INT(?s:.{,200}?)\(default: 32\)", capsys.readouterr().out)


def test_muzeros_searches_have_their_settings_beside_their_name(write):
    words = ["--agent", "muzero", "--agent.planner", "soft_tree", "--agent.planner.rounds", "3"]
    tree = load(None, words).agent.planner
    assert (tree.rounds, tree.refine) == (3, 0)
    path = write("agent: {name: muzero, planner: {simulations: 5}}")
    assert (load(path).agent.planner.name, load(path).agent.planner.simulations) == ("mctx", 5)
    assert load(path, ["--agent.planner", "soft_tree"]).agent.planner.rounds != 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--agent", "pets", "--agent.planner", "mctx"],
         "^unknown agent.planner of pets 'mctx'; known are cem, icem, mppi, random$"),
        (["--agent", "muzero", "--agent.planner", "cem"],
         "^unknown agent.planner of muzero 'cem'; known are mctx, soft_tree$"),
        (["--agent", "mbpo", "--agent.planner", "cem"],
         "^agent.planner is 'cem', but mbpo does not plan; take an agent that does$"),
        (["--agent", "tdmpc2", "--agent.planner", "cme"], "^unknown agent.planner of tdmpc2 'cme'; did you mean 'cem'"),
        (["--agent.planner", "mpi"], "^unknown agent.planner of dreamer 'mpi'; did you mean 'mppi'"),
        (["--agent.planner.samples", "3"], "^unknown option '--agent.planner.samples'; did you mean '--agent.planner"),
        (["--agent.planner", "mctx", "--agent.planner.samples", "3"], "^unknown option '--agent.planner.samples'"),
    ],
)
def test_another_planners_fields_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        load(None, words)


@pytest.mark.parametrize("key", KNOWN)
def test_every_field_can_be_set_by_word_and_by_file(key, write):
    value = "dreamer" if key == "agent.name" else sample(KNOWN[key])
    words = [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
    config = load(None, [f"--{key}", *words])
    assert value_at(config, key) == value
    nested = list(value) if isinstance(value, tuple) else value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    assert load(write(yaml.safe_dump(nested))) == config


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_each_experiment_loads_and_runs_again_as_resolved(path, write):
    config = load(path)
    assert config.env.name.startswith(("boxes/", "brax/", "classic/", "dmc/", "probe/"))
    assert load(write(to_yaml(config))) == config


@hypothesis.given(
    seed=st.integers(0, 2**31),
    ratio=st.floats(1e-6, 1e6),
    rate=st.floats(0, 1),
    name=st.text(min_size=1),
    run=st.text(),
    classes=st.none() | st.integers(1, 99),
    normalise=st.booleans(),
    optimiser=st.sampled_from(["adam", "laprop"]),
)
@hypothesis.settings(max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_resolved_config_loads_as_the_same_config(write, seed, ratio, rate, name, run, classes, normalise, optimiser):
    config = load(None, {"seed": seed, "train_ratio": ratio})
    agent = dataclasses.replace(
        config.agent,
        worldmodel=dataclasses.replace(config.agent.worldmodel, classes=classes),
        behaviour=dataclasses.replace(config.agent.behaviour, normalise_returns=normalise, slow_rate=rate),
        optim=dataclasses.replace(config.agent.optim, optimiser=optimiser),
    )
    env = dataclasses.replace(config.env, name=name)
    config = dataclasses.replace(config, agent=agent, env=env, run_dir=run)
    assert load(write(yaml.safe_dump(to_dict(config)))) == config


MALFORMED = {
    "a list": ("[1, 2]", "holds a list"),
    "a word": ("seed", "holds a str"),
    "nothing": ("", "is empty"),
    "a comment": ("# seed: 3", "is empty"),
    "a key twice": ("seed: 1\nseed: 2", "line 2: 'seed' is given twice"),
    "a key in two ways": ("env: a\nenv.name: b", "env.name is given twice"),
    "a python tag": ("seed: !!python/object/apply:os.getcwd []", "python/object/apply:os.getcwd"),
    "a python name": ("seed: !!python/name:os.system", "python/name:os.system"),
    "an alias": ("a: &x [1]\nb: *x", "anchors"),
    "a merge": ("a: &x {seed: 1}\n<<: *x", "anchors"),
    "deep nesting": ("[" * 20_000, "nested too deeply"),
    "deep mappings": ("{a: " * 20_000, "nested too deeply"),
    "binary": (b"\x7fELF\x02\x01\xff\xfe", "UTF-8"),
    "zero bytes": (b"seed: 1\x00", "special characters"),
    "too much": ("seed: 3 #" + "x" * 300_000, "bytes"),
    "no such date": ("seed: 2001-99-99", "cannot be read"),
    "an endless number": ("seed: " + "9" * 5000, "cannot be read"),
    "bytes": ("seed: !!binary aGVsbG8=", "seed is a bytes"),
    "a set": ("seed: !!set {a, b}", "seed is a set"),
    "a list as key": ("? [a]\n: 3", "unhashable"),
    "two documents": ("seed: 1\n---\nseed: 2", "another document"),
    "broken syntax": ("seed: 1: 2", "line 1"),
    "a tabulator": ("env:\n\tname: x", "line 2"),
    "an unknown key": ("sed: 3", "unknown key 'sed'; did you mean 'seed'?"),
    "an unknown nested key": ("agent: {behaviour: {horizn: 3}}", "did you mean 'agent.behaviour.horizon'?"),
    "a key far from all": ("zzzzzz: 3", "known are agent, checkpoint, devices, env"),
    "a number as key": ("1: 2", "unknown key '1'"),
    "a group for a value": ("seed: {a: 1}", "did you mean 'seed'?"),
    "a value for a group": ("replay: 3", "replay is a group of settings"),
    "a word for a number": ("seed: three", "seed is 'three', but must be a whole number"),
    "a fraction for a whole number": ("steps: 10.5", "steps is '10.5', but must be a whole number"),
    "a truth for a number": ("seed: true", "seed is 'True', but must be a whole number"),
    "a list for a number": ("seed: [1, 2]", "seed is '1 2', but must be a whole number"),
    "null for a number": ("seed: null", "seed is 'None', but must be a whole number"),
    "a misspelt choice": ("agent: {size: nanoo}", "did you mean 'nano'?"),
    "a misspelt agent": ("agent: dreamr", "unknown agent 'dreamr'; did you mean 'dreamer'?"),
    "half a power": ("steps: 1e", "steps is '1e', but must be a whole number"),
    "a power below one": ("steps: 1e-3", "steps is '1e-3', but must be a whole number"),
    "an endless power": ("steps: 1e999", "steps is '1e999', but must be a whole number"),
    "a maybe": ("agent: {replay_context: maybe}", "must be true or false"),
}


@pytest.mark.parametrize(("content", "said"), MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_file_is_one_sentence(content, said, write):
    with pytest.raises(UserError) as caught:
        load(write(content))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@hypothesis.given(st.binary(max_size=60) | st.text(st.sampled_from("seedn: {}[]-&*!?|>'\"%@`,#\n\t0.\\x"), max_size=40))
@hypothesis.settings(max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_file_is_a_config_or_one_sentence(write, content):
    try:
        said = load(write(content))
    except UserError as error:
        said = str(error)
    assert isinstance(said, Config) or said.isprintable()


WRONG_WORDS = {
    "unknown option": (["--sed", "3"], "unknown option '--sed'; did you mean '--seed'?"),
    "only its last name": (["--horizon", "3"], "did you mean '--agent.behaviour.horizon'?"),
    "one dash": (["-seed", "3"], "unknown option '-seed'; did you mean '--seed'?"),
    "dashes alone": (["--"], "unknown option '--'"),
    "no value": (["--seed"], "--seed needs a value: a whole number"),
    "no value before the next": (["--seed", "--steps", "3"], "--seed needs a value"),
    "a stray word": (["--seed", "3", "4"], "cannot place '4'"),
    "a wrong type": (["--seed", "x"], "--seed is 'x', but must be a whole number"),
    "an empty value": (["--seed="], "--seed is ''"),
    "a group": (["--replay", "3"], "--replay is a group of settings and holds replay.batch_length"),
    "an unknown agent": (["--agent", "dremer"], "did you mean 'dreamer'?"),
    "an unknown choice": (["--agent.size=2m"], "--agent.size is '2m', but must be one of nano, 1m"),
}


@pytest.mark.parametrize(("words", "said"), WRONG_WORDS.values(), ids=list(WRONG_WORDS))
def test_a_wrong_option_is_one_sentence(words, said):
    with pytest.raises(UserError) as caught:
        load(None, words)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_refusal_of_a_dataclass_itself_is_told_as_it_stands():
    @dataclasses.dataclass(frozen=True)
    class Even:
        number: int = 2

        def __post_init__(self):
            if self.number % 2:
                raise UserError(f"{self.number} is odd")

    assert parsing.parse(Even, {"number": ["4"]}) == Even(4)
    with pytest.raises(UserError, match=r"^3 is odd$"):
        parsing.parse(Even, {"number": ["3"]})


def test_experiments_are_found_by_path_name_and_last_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments/a").mkdir(parents=True)
    (tmp_path / "experiments/b").mkdir()
    for name in ("a/one", "a/two", "b/two"):
        (tmp_path / f"experiments/{name}.yaml").write_text(f"run_dir: {name}")
    (tmp_path / "here.yaml").write_text("seed: 1")
    (tmp_path / "runs/two").mkdir(parents=True)
    (tmp_path / "runs/two/config.yaml").write_text("seed: 2")
    assert load("runs/two").seed == 2
    for given in ("a/one", "one", "experiments/a/one.yaml"):
        assert load(given).run_dir == "a/one"
    for given, said in {
        "two": "may be a/two or b/two",
        "on": "did you mean 'one'?",
        "one.yaml": "did you mean 'experiments/a/one.yaml'?",
        "experiments/a/on.yaml": "did you mean 'experiments/a/one.yaml'?",
        "experiments": "without a config.yaml",
        "runs/tw": "did you mean 'runs/two'?",
        "herf.yaml": "did you mean 'here.yaml'?",
        "": "no experiment or run",
        "nul\0": "no experiment or run",
        "x" * 5000: "no experiment or run",
        "/dev/null": "is not a file",
    }.items():
        with pytest.raises(UserError) as caught:
            load(given)
        assert said in str(caught.value)
        assert str(caught.value).isprintable()


def test_the_python_door_is_the_same_reader():
    assert mbrl.load_config is load


JUNK = ["nan", "inf", "-inf", "-1", "0", "1", "3", "1e30", "-1e30", "1e-30", "999999999999", "x", "", "null", "[1, 2]"]


class AcceptedError(Exception):
    """The words went through; a folder would be made now."""


@pytest.fixture(scope="module")
def without_compiling(tmp_path_factory):
    """`mbrl train` in an empty folder up to where it would make one; nothing is traced, and no cache is taken up."""

    def prepare(config):
        check(config)
        env = make(config.env)
        AGENTS[config.agent.name].make(config.agent, env.observation_spec, env.action_spec)
        return None, None, ""

    def create(_):
        raise AcceptedError

    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(train, "prepare", prepare)
        patch.setattr(train.rundir, "create", create)
        patch.setattr(compilation, "use_cache", lambda: None)
        yield folder


@hypothesis.given(data=st.data(), agent=st.sampled_from(sorted(AGENTS)), junk=st.sampled_from(JUNK))
@hypothesis.settings(max_examples=500, deadline=None, database=None)
def test_any_value_of_any_setting_is_a_config_or_one_sentence(without_compiling, data, agent, junk):
    key = data.draw(st.sampled_from(sorted(set(parsing.leaves(config_type(agent))) - {"agent.name", "run_dir"})))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(AcceptedError):
        assert main(["train", "--env=probe/cue", f"--agent={agent}", f"--{key}={junk}"]) == 2
        line, end = said.getvalue()[:-1], said.getvalue()[-1]
        assert line.startswith("mbrl: ")
        assert (line.isprintable(), end) == (True, "\n")
    assert list(without_compiling.iterdir()) == []


def test_a_run_saved_before_there_was_a_setting_is_read_as_what_it_did(tmp_path):
    def folder(agent, gone):
        saved = yaml.safe_load(to_yaml(load(overrides={"agent": agent})))
        for key in gone:
            *path, last = key.split(".")
            del functools.reduce(dict.__getitem__, path, saved)[last]
        run = tmp_path / agent
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(saved))
        return run

    for agent in ("mbpo", "pets"):
        run = folder(agent, ["agent.worldmodel.beta", "episode_limit"])
        copied = tmp_path / f"{agent}.yaml"
        copied.write_text((run / "config.yaml").read_text())
        assert load(copied).agent.worldmodel.beta == 0.5  # an experiment has the defaults
        for config in (load(run), load(run / "config.yaml"), reader.load_run(str(run))):
            assert config.agent.worldmodel.beta == 0.0
            assert config.episode_limit is None
        assert load(run, {"agent.worldmodel.beta": 1.0}).agent.worldmodel.beta == 1.0
        (run / "config.yaml").write_text(to_yaml(load(overrides={"agent": agent})))
        assert load(run).agent.worldmodel.beta == 0.5
    run = folder("dreamer", ["agent.behaviour.lam"])  # which it always had
    assert load(run).agent.behaviour.lam == load().agent.behaviour.lam > 0
