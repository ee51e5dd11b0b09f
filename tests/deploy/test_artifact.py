"""Exported policies as others may have left them: whatever is wrong is one sentence, and nothing foreign is run."""

import hashlib
import json
import struct

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export as jax_export

from mbrl.core.errors import UserError
from mbrl.deploy import artifact, export, load, program
from mbrl.deploy.policy import make_policy


@pytest.fixture(scope="module")
def written(tmp_path_factory, loaded):
    """A small export: the bytes of its file and its JSON's content."""
    path = tmp_path_factory.mktemp("written") / "policy.bin"
    told = export.write(make_policy(loaded), path, 1, ("cpu",))
    return path.read_bytes(), told


def put(folder, content, told):
    """Write both files, with a checksum that is right."""
    told = json.loads(json.dumps(told))
    if isinstance(told.get("file"), dict):
        told["file"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path = folder / "policy.bin"
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(told))
    return path


def test_what_is_whole_is_read(written, tmp_path):
    read = artifact.read(put(tmp_path, *written))
    assert read.code == written[0][8 : 8 + written[1]["program"]["bytes"]]
    assert {name: array.dtype.name for name, array in read.parameters.items()}
    assert all(entry["offset"] % 64 == 0 for entry in written[1]["parameters"])


@pytest.mark.parametrize("where", [0, 9, 20_000, -1])
def test_a_flipped_bit_is_noticed(written, tmp_path, where):
    content, told = written
    path = put(tmp_path, content, told)
    flipped = bytearray(content)
    flipped[where] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"differs from the checksum|does not begin with MBRLPOL1"):
        artifact.read(path)


def test_a_cut_or_missing_file_is_noticed(written, tmp_path):
    content, told = written
    path = put(tmp_path, content, told)
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match=f"has {len(content) - 100} bytes, but its description says {len(content)}"):
        artifact.read(path)
    path.unlink()
    with pytest.raises(UserError, match=r"policy\.bin cannot be read: No such file"):
        artifact.read(path)
    with pytest.raises(UserError, match=r"other\.json cannot be read: No such file"):
        artifact.read(tmp_path / "other.bin")


HUGE = 2**62
WRONG = {
    "no object": lambda _: [],
    "another format": lambda told: told | {"format": "x"},
    "a version to come": lambda told: told | {"format_version": 2},
    "no file": lambda told: told | {"file": 3},
    "no program": lambda told: told | {"program": None},
    "a program beyond the end": lambda told: told | {"program": {"offset": 8, "bytes": HUGE}},
    "a program before the beginning": lambda told: told | {"program": {"offset": -8, "bytes": 8}},
    "a size that is no number": lambda told: told | {"program": {"offset": 8.0, "bytes": True}},
    "rows": lambda told: told | {"rows": 0},
    "more rows than memory": lambda told: told | {"rows": HUGE},
    "parameters": lambda told: told | {"parameters": {}},
    "an array": lambda told: told | {"parameters": [3]},
    "a huge array": lambda told: told | {"parameters": [told["parameters"][0] | {"shape": [HUGE, HUGE]}]},
    "nothing, hugely": lambda told: told | {
        "parameters": [told["parameters"][0] | {"shape": [0, 2**39, 2**39]}, *told["parameters"][1:]]},
    "a negative array": lambda told: told | {"parameters": [told["parameters"][0] | {"shape": [-1]}]},
    "an array with a hundred axes": lambda told: told | {"parameters": [told["parameters"][0] | {"shape": [1] * 100}]},
    "an object array": lambda told: told | {"parameters": [told["parameters"][0] | {"dtype": "object"}]},
    "one array twice": lambda told: told | {"parameters": [told["parameters"][0]] * 2},
    "many arrays at one place": lambda told: told | {"parameters": [
        told["parameters"][0] | {"name": str(n), "shape": [4096]} for n in range(1000)]},
    "a huge carry": lambda told: told | {"inputs": {"carry": [{"name": "a", "shape": [1, HUGE], "dtype": "float32"}]}},
    "a carry of other rows": lambda told: told | {
        "inputs": {"carry": [{"name": "a", "shape": [2], "dtype": "float32"}]}},
    "a carry that is none": lambda told: told | {"inputs": {"carry": [{"name": 1}]}},
}


@pytest.mark.parametrize("how", WRONG)
def test_a_description_that_cannot_be_is_refused_before_memory_is_taken(how, written, tmp_path, monkeypatch):
    content, told = written
    # Of a program that would fit: the description alone is to be what is wrong.
    report = program.Report([], [], 0, ["cpu"], [], [])
    monkeypatch.setattr(program, "examine", lambda *_: report)
    path = tmp_path / "policy.bin"
    wrong = WRONG[how](json.loads(json.dumps(told)))
    if isinstance(wrong, dict):
        path = put(tmp_path, content, wrong)
    else:
        path.write_bytes(content)
        path.with_suffix(".json").write_text(json.dumps(wrong))
    with pytest.raises(UserError) as refused:
        load.load_policy(path)
    assert "\n" not in str(refused.value)
    assert "policy." in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": "mbrl-policy"', "\x00\xff", '"' * 9])
def test_a_description_that_is_no_json_is_refused(text, written, tmp_path):
    path = put(tmp_path, *written)
    path.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"is not JSON|does not describe"):
        artifact.read(path)


JUNK = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))


@settings(max_examples=50)
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused(data, written, tmp_path_factory):
    """Never another exception than a UserError."""
    content, told = written
    told = json.loads(json.dumps(told))
    place = told
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JUNK)
    path = put(tmp_path_factory.mktemp("junk"), content, told)
    try:
        read = artifact.read(path)
    except UserError:
        return
    assert read.parameters.keys() == {entry["name"] for entry in told["parameters"]}


def test_a_program_that_crashes_its_reader_is_one_sentence(written, tmp_path):
    """It is read by another process first, which may die of it."""
    content, told = written
    size = told["program"]["bytes"]
    rng = np.random.default_rng(0)
    for cut in (False, True):
        code = bytearray(content[8 : 8 + size])
        for _ in range(40):
            code[rng.integers(len(code))] = rng.integers(256)
        if cut:
            code[size // 2 :] = bytes(size - size // 2)
        path = put(tmp_path, content[:8] + bytes(code) + content[8 + size :], told)
        with pytest.raises(UserError, match="cannot be read: it is damaged, or of a newer JAX"):
            load.load_policy(path)


def foreign(target):
    """A program with a custom call, as an attacker would serialise it."""
    spec = jax.ShapeDtypeStruct((1,), np.float32)
    calling = jax.jit(lambda x: jax.ffi.ffi_call(target, spec)(x))
    unchecked = [jax_export.DisabledSafetyCheck.custom_call(target)]
    return jax_export.export(calling, platforms=["cpu"], disabled_checks=unchecked)(spec)


@pytest.mark.parametrize("target", ["xla_ffi_python_cpu_callback", "anything"])
def test_custom_calls_are_refused(written, tmp_path, target):
    code = bytes(foreign(target).serialize())
    told = written[1] | {"program": {"offset": 8, "bytes": len(code)}, "parameters": []}
    path = put(tmp_path, artifact.MAGIC + code, told)
    with pytest.raises(UserError, match=f"holds the custom call '{target}', which may do more than compute"):
        load.load_policy(path)


def test_an_array_beyond_all_measure_is_refused():
    spec = jax.ShapeDtypeStruct((), np.float32)
    large = jax_export.export(jax.jit(lambda x: jax.lax.broadcast(x, (2**20, 2**20)).sum()), platforms=["cpu"])(spec)
    found = program.report(large)
    assert found.largest == 2**42
    with pytest.raises(UserError, match=f"holds an array of {2**42} bytes"):
        program.refuse_foreign(artifact.Path("p.bin"), found)


def test_what_does_not_fit_its_program_is_refused(written, tmp_path):
    content, told = written
    wrong = json.loads(json.dumps(told))
    wrong["inputs"]["carry"][0]["shape"] = [1, 9]
    with pytest.raises(UserError, match="does not take and return what"):
        load.load_policy(put(tmp_path, content, wrong))


def test_another_platforms_policy_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    load._check_platform(artifact.Path("p.bin"), ["cpu", "cuda"])
    with pytest.raises(UserError, match="was exported for cpu, but JAX runs on gpu here"):
        load._check_platform(artifact.Path("p.bin"), ["cpu"])


def test_numbers_lie_little_endian(tmp_path):
    array = np.array([1.0, -2.5], ">f4")
    about = {"rows": 1, "inputs": {"carry": []}}
    told = artifact.write(tmp_path / "p.bin", b"code", {"w": array}, about)
    place = told["parameters"][0]["offset"]
    assert struct.unpack_from("<2f", (tmp_path / "p.bin").read_bytes(), place) == (1.0, -2.5)
    np.testing.assert_array_equal(artifact.read(tmp_path / "p.bin").parameters["w"], [1.0, -2.5])
