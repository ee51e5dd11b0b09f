"""Checkpoints: every bit comes back or nothing does."""

import contextlib
import json
import logging
import resource
import shutil
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from mbrl.core.errors import UserError
from mbrl.runner import checkpoint, leaves, manifest
from mbrl.runner.checkpoint import Checkpoints


class State(NamedTuple):
    agent: dict
    replay: dict
    key: object
    keys: object
    empty: object = ()


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    agent = {
        "w": jnp.asarray(rng.standard_normal((64, 64)), jnp.float32),
        "half": jnp.asarray(rng.standard_normal(5), jnp.bfloat16),
        "odd/name": {"step": jnp.int32(seed), "nan": jnp.float32(np.nan)},
    }
    replay = {"uint8": jnp.arange(9, dtype=jnp.uint8), "flag": jnp.array([True, False]), "none": jnp.zeros((0, 3))}
    keys = jax.random.split(jax.random.key(seed, impl="rbg"), 3)
    return State(agent, replay, jax.random.key(seed), keys)


def template():
    return jax.eval_shape(make_state)


def bits(state):
    host = leaves.to_host(state)
    return {name: array.tobytes() for name, array in host.arrays.items()}, host.specs


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saves(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=2)


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory):
    """Saves of steps 1 and 2, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    for step in (1, 2):
        Checkpoints(folder).save(make_state(step), step, config="seed: 0\n", metric=float(-step))
    return folder


@pytest.fixture
def copied(two_saves, tmp_path):
    return Checkpoints(shutil.copytree(two_saves, tmp_path / "checkpoints"))


def test_round_trip(saves):
    saves.save(make_state(3), 3, config="seed: 3\n", metric=1.5)
    saved = saves.find()
    assert (saved.step, saved.metric, saved.config) == (3, 1.5, "seed: 3\n")
    loaded = saves.load(saved, template())
    assert bits(loaded) == bits(make_state(3))
    assert jax.tree.structure(loaded) == jax.tree.structure(make_state(3))
    assert jax.random.normal(loaded.key) == jax.random.normal(make_state(3).key)
    assert (jax.random.bits(loaded.keys[1]) == jax.random.bits(make_state(3).keys[1])).all()


def test_template_may_be_arrays(copied):
    assert bits(copied.load(copied.find(), make_state())) == bits(make_state(2))


def test_restored_leaves_can_be_donated(copied):
    loaded = copied.load(copied.find(), template())
    out = jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)(loaded)
    assert bits(out) == bits(make_state(2))
    assert loaded.agent["w"].is_deleted()


FILES = ["manifest.json", "meta.json", "config.yaml", "state/_METADATA", "state/manifest.ocdbt", "largest"]


def pick(folder, name):
    if name != "largest":
        return folder / name
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def damage(path, how):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "zeroed":
        path.write_bytes(bytes(len(content)))
    else:
        content[middle] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "zeroed", "flipped"])
def test_damage_falls_back(copied, caplog, name, how):
    newest = copied.folder / f"{2:012d}"
    path = pick(newest, name)
    damage(path, how)
    with caplog.at_level(logging.WARNING):
        saved = copied.find()
    assert saved.step == 1
    assert bits(copied.load(saved, template())) == bits(make_state(1))
    assert len(caplog.messages) == 1
    assert str(newest) in caplog.messages[0]
    if name != "manifest.json":  # a flipped bit in it may turn suspicion on any file it lists
        assert path.relative_to(newest).as_posix() in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


@hypothesis.given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@hypothesis.settings(max_examples=40, database=None)
def test_no_flipped_bit_comes_back(two_saves, where, bit):
    """Whichever bit of a save flips: what is found is a save as it was written."""
    files = sorted(p for p in (two_saves / f"{2:012d}").rglob("*") if p.is_file())
    place = int(where * sum(p.stat().st_size for p in files))
    for path in files:
        if place < path.stat().st_size:
            break
        place -= path.stat().st_size
    good = path.read_bytes()
    bad = bytearray(good)
    bad[place] ^= 1 << bit
    path.write_bytes(bad)
    try:
        saved = Checkpoints(two_saves).find()
        # Of the manifest, only bits that say nothing (a space that becomes another one) may flip unseen.
        assert saved.step == 1 or path.name == "manifest.json"
        assert bits(Checkpoints(two_saves).load(saved, template())) == bits(make_state(saved.step))
    finally:
        path.write_bytes(good)


ODD = [None, -1, 0, 1e400, "x", "", [], {}, [1, 2], 10**30, 10**400, True, "float32", [[]], {"a": 1}]


def forge(folder, rng):
    """Change a save at random, and sign it as if it had been written so."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != manifest.MANIFEST)
    path, how = files[rng.integers(len(files))], rng.choice(["said", "said", "flipped", "cut", "other"])
    content = bytearray(path.read_bytes())
    if how == "said":
        path, meta = folder / "meta.json", json.loads((folder / "meta.json").read_text())
        places = [(meta, name) for name in meta] + [(meta["leaves"], name) for name in meta["leaves"]]
        places += [(entry, place) for entry in meta["leaves"].values() for place in range(len(entry))]
        within, place = places[rng.integers(len(places))]
        within[place] = ODD[rng.integers(len(ODD))]
        content = json.dumps(meta).encode()
    elif how == "flipped" and content:
        for place in rng.integers(len(content), size=3):
            content[place] ^= 1 << rng.integers(8)
    elif how == "cut":
        content = content[: rng.integers(len(content) + 1)]
    else:
        content = rng.bytes(rng.integers(300))
    path.write_bytes(content)
    (folder / manifest.MANIFEST).unlink()
    manifest.write(folder)


# Of several reads that fail at once Orbax hears of the first; on a busy machine the others come when nobody waits.
@pytest.mark.filterwarnings("ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning")
def test_two_hundred_forged_saves_are_a_sentence_or_a_state(two_saves, tmp_path):
    """Whoever writes a save can sign it: what is wrong in it is told all the same, and nothing else happens."""
    said, before = [], sorted(tmp_path.parent.iterdir())
    for seed in range(200):
        folder = tmp_path / str(seed)
        shutil.copytree(two_saves / f"{2:012d}", folder / f"{2:012d}")
        forge(folder / f"{2:012d}", np.random.default_rng(seed))
        for best in (False, True):
            try:
                saved = Checkpoints(folder).find(best=best)
                state = Checkpoints(folder).load(saved, template())
                assert jax.tree.structure(state) == jax.tree.structure(template())
            except UserError as error:
                said.append(str(error))
        shutil.rmtree(folder)
    assert 100 < len(said) < 400
    assert not any("\n" in sentence for sentence in said)
    assert sorted(tmp_path.parent.iterdir()) == before


def test_nothing_valid_is_an_error(copied, tmp_path):
    for step in (1, 2):
        damage(copied.folder / f"{step:012d}" / "manifest.json", "missing")
    with pytest.raises(UserError, match=r"no valid checkpoint in .*, where 2 were found"):
        copied.find()
    with pytest.raises(UserError, match="where 0 were found"):
        Checkpoints(tmp_path / "nowhere").find()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(agent=s.agent | {"w": jnp.zeros((64, 64), jnp.bfloat16)}),
         r"agent\.w in the checkpoint is float32\[64,64\], expected bfloat16\[64,64\]"),
        (lambda s: s._replace(agent=s.agent | {"w": jnp.zeros((64, 32))}), r"expected float32\[64,32\]"),
        (lambda s: s._replace(replay=s.replay | {"none": jnp.zeros((0, 4))}), r"replay\.none .* expected float32\[0,4"),
        (lambda s: s._replace(key=jax.random.key(0, impl="rbg")), r"key in the checkpoint is key<fry>\[\], expected"),
        (lambda s: s._replace(key=jnp.zeros(2, jnp.uint32)), r"expected uint32\[2\]"),
        (lambda s: s._replace(replay=s.replay | {"more": jnp.zeros(1)}), r"has no replay\.more, expected float32\[1\]"),
        (lambda s: s._replace(replay={"uint8": s.replay["uint8"]}), r"holds replay\.flag, bool\[2\], which"),
    ],
)
def test_other_shape_dtype_or_structure_is_an_error(copied, change, message):
    with pytest.raises(UserError, match=message):
        copied.load(copied.find(), change(make_state()))


def test_array_that_orbax_changes_is_an_error(copied, monkeypatch):
    """Should the reader hand out another dtype than was written, that is no cast either."""
    restore = ocp.Checkpointer.restore

    def casting(self, *args, **kwargs):
        arrays = restore(self, *args, **kwargs)
        return arrays | {"agent.w": arrays["agent.w"].astype(np.float16)}

    monkeypatch.setattr(ocp.Checkpointer, "restore", casting)
    with pytest.raises(UserError, match=r"agent\.w in the checkpoint is float16"):
        copied.load(copied.find(), template())


def test_keeps_the_newest_and_the_best(saves):
    for step, metric in enumerate([1.0, 5.0, 5.0, 2.0, None, float("nan"), 3.0]):
        saves.save({"x": jnp.float32(step)}, step, config="", metric=metric)
    assert names(saves.folder) == [f"{step:012d}" for step in (2, 5, 6)]
    assert saves.find().step == 6
    assert saves.find(best=True).step == 2
    assert json.loads((saves.folder / f"{5:012d}" / "meta.json").read_text())["metric"] is None


def test_damaged_saves_do_not_push_out_good_ones(saves):
    for step in (1, 2, 3):
        saves.save({"x": jnp.float32(step)}, step, config="")
        if step == 2:
            damage(saves.folder / f"{2:012d}" / "meta.json", "cut")
    assert names(saves.folder) == [f"{step:012d}" for step in (1, 2, 3)]


def test_same_step_is_replaced(saves):
    for value in (1.0, 2.0):
        saves.save({"x": jnp.float32(value)}, 7, config="")
    assert names(saves.folder) == [f"{7:012d}"]
    assert saves.load(saves.find(), {"x": jnp.float32(0)})["x"] == 2.0


def test_full_disk_is_no_success(copied):
    """The kernel refuses to let any file grow beyond 4 KiB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(UserError, match=r"step 3 could not be saved in .* earlier saves are untouched"):
            copied.save(make_state(3), 3, config="")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(copied.folder) == [f"{step:012d}" for step in (1, 2)]
    assert copied.find().step == 2


def corrupt_files(part):
    damage(pick(part / "state", "largest"), "zeroed")


def corrupt_then_list(part):
    corrupt_files(part)
    ORIGINAL_WRITE(part)


def list_then_corrupt(part):
    ORIGINAL_WRITE(part)
    corrupt_files(part)


ORIGINAL_WRITE = manifest.write


@pytest.mark.parametrize("write", [corrupt_then_list, list_then_corrupt, lambda _: None])
def test_what_is_not_read_back_is_not_saved(copied, monkeypatch, write):
    """Bytes lost on the way, before or after the manifest saw them, or a manifest that was never written."""
    monkeypatch.setattr(manifest, "write", write)
    with pytest.raises(UserError, match="step 3 could not be saved"):
        copied.save(make_state(3), 3, config="")
    assert names(copied.folder) == [f"{step:012d}" for step in (1, 2)]


def test_value_that_reads_back_differently_is_not_saved(copied, monkeypatch):
    restore = ocp.Checkpointer.restore

    def lying(self, *args, **kwargs):
        arrays = restore(self, *args, **kwargs)
        return arrays | {"agent.w": arrays["agent.w"] + 1}

    monkeypatch.setattr(ocp.Checkpointer, "restore", lying)
    with pytest.raises(UserError, match=r"agent\.w was read back differently"):
        copied.save(make_state(3), 3, config="")


@pytest.mark.parametrize("stage", [(ocp.Checkpointer, "save"), (manifest, "write"), (Checkpoints, "_publish")])
def test_killed_while_saving(copied, monkeypatch, stage):
    """Whatever is half done does not count, and the next save sweeps it away."""

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*stage, killed)
        with pytest.raises(KeyboardInterrupt):
            copied.save(make_state(3), 3, config="")
    assert f".part-{3:012d}" in names(copied.folder)
    assert copied.find().step == 2
    copied.save(make_state(4), 4, config="")
    assert not [name for name in names(copied.folder) if name.startswith(".")]


def test_killed_while_an_old_save_is_removed(saves, monkeypatch):
    """What is left of it does not stay for ever as a damaged save."""

    def killed(path, *_args, **_kwargs):
        (path / manifest.MANIFEST).unlink()
        raise KeyboardInterrupt

    for step in (1, 2):
        saves.save(make_state(step), step, config="")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            saves.save(make_state(3), 3, config="")
    saves.save(make_state(4), 4, config="")
    assert names(saves.folder) == [f"{step:012d}" for step in (3, 4)]


def test_a_file_that_says_it_holds_terabytes_takes_no_memory(copied):
    """Whoever signs a save may have enlarged an array in Orbax's own files, where what is not written reads as 0."""
    newest = copied.folder / f"{2:012d}"
    base = {"driver": "file", "path": f"{newest / 'state'}/"}
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": "agent.w/"}}
    array = tensorstore.open(spec, open=True).result()
    array.resize(exclusive_max=[2**38, *array.shape[1:]]).result()
    (newest / manifest.MANIFEST).unlink()
    manifest.write(newest)
    saved = copied.find()
    assert saved.step == 2
    with pytest.raises(UserError, match=r"the file of agent\.w holds float32\(274877906944"):
        copied.load(saved, template())


# Where Orbax gives up, what it had begun beside is never waited for.
@pytest.mark.filterwarnings("ignore:(?s).*NumpyHandler.metadata:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["string", "int", "None", "np.ndarray", "nothing known"])
def test_an_array_that_orbax_is_told_is_something_else(copied, kind):
    newest = copied.folder / f"{2:012d}"
    told = newest / "state" / "_METADATA"
    tree = json.loads(told.read_text())
    tree["tree_metadata"]["('agent.w',)"]["value_metadata"]["value_type"] = kind
    told.write_text(json.dumps(tree))
    (newest / manifest.MANIFEST).unlink()
    manifest.write(newest)
    with contextlib.suppress(UserError):
        assert bits(copied.load(copied.find(), template())) == bits(make_state(2))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"files": {"a\\u0000b": {}}}', '{"files": {"\\ud800": {}}}'])
def test_a_manifest_that_is_none(copied, text):
    newest = copied.folder / f"{2:012d}"
    (newest / manifest.MANIFEST).write_text(text)
    assert "cannot be read" in manifest.problem(newest) or "outside" in manifest.problem(newest)
    assert copied.find().step == 1


def test_set_aside(copied):
    copied.set_aside_after(1)
    assert names(copied.folder) == [f"{1:012d}", f"{2:012d}.damaged"]
    assert copied.find().step == 1


def test_paths_stay_inside(copied, tmp_path):
    """A manifest cannot point out of its folder, and a link is not a save."""
    newest = copied.folder / f"{2:012d}"
    (tmp_path / "secret").write_text("x")
    for name in ("../../secret", str(tmp_path / "secret")):
        (newest / "manifest.json").write_text(json.dumps({"files": {name: {"size": 1, "sha256": ""}}}))
        assert "outside" in manifest.problem(newest)
    (newest / "link").symlink_to(tmp_path / "secret")
    (newest / "manifest.json").write_text(json.dumps({"files": {"link": {"size": 1, "sha256": ""}}}))
    assert "outside" in manifest.problem(newest)
    (copied.folder / f"{9:012d}").symlink_to(copied.folder / f"{1:012d}")
    assert copied.find().step == 1


def test_quiet_only_while_orbax_works(copied):
    level = logging.getLogger("absl").level
    copied.load(copied.find(), template())
    assert logging.getLogger("absl").level == level
    assert checkpoint.ocp is ocp
