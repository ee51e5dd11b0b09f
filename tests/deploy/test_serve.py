"""Acting over HTTP: each session as if it were alone, and everything else refused in one sentence."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl.bench import load as bench_load
from mbrl.cli.main import main
from mbrl.core.errors import UserError
from mbrl.deploy import requests
from mbrl.deploy.engine import Answer, Engine, Request
from mbrl.deploy.policy import Policy, Seen
from mbrl.deploy.sessions import Batcher, RefusedError, Sessions

pytest.importorskip("starlette")
server = pytest.importorskip("mbrl.deploy.server")

SPEC = specs.Array((2,), np.float32)


@pytest.fixture(scope="module")
def url(policy):
    """A server's port, for everything that does not need one of its own."""
    with server.background(policy, server.Settings(port=0, max_sessions=40, batch=8)) as where:
        yield int(where.rpartition(":")[2])


def ask(port, method, path, body=None, raw=None, **headers):
    """A request: the status, and what the answer's JSON says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    content = raw if raw is not None else None if body is None else json.dumps(body)
    known = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, content, known)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    return answer.status, json.loads(said) if said[:1] == b"{" else said.decode()


def begin(port, seed):
    status, told = ask(port, "POST", "/sessions", {"seed": seed})
    assert status == 201
    return told["session"]


def play(port, seed, steps=3):
    """What one session does over some steps, the third of which begins an episode."""
    name, found = begin(port, seed), []
    for t, observation in enumerate(np.random.default_rng(seed).normal(size=(steps, 2))):
        body = {"observation": observation.tolist(), "reward": 0.5, "first": t == 2}
        status, told = ask(port, "POST", f"/sessions/{name}/act", body)
        assert (status, told["step"]) == (200, t + 1)
        found.append(told["action"])
    assert ask(port, "DELETE", f"/sessions/{name}")[0] == 204
    return np.array(found)


def test_a_session_acts_as_the_policy_alone_does(url, policy):
    step, carry, own = jax.jit(policy.step), policy.initial(1), []
    for t, observation in enumerate(np.random.default_rng(7).normal(size=(3, 2)).astype(np.float32)):
        seen = Seen(jnp.asarray(observation[None]), jnp.full(1, 0.5), jnp.ones(1), jnp.array([t != 1]))
        action, carry = step(policy.parameters, carry, seen, jax.random.fold_in(jax.random.key(7), t))
        own.append(np.asarray(action[0]))
    np.testing.assert_allclose(play(url, 7), own, atol=1e-5)


def test_no_session_sees_another(url):
    alone = [play(url, seed) for seed in range(12)]
    assert len(np.unique(np.concatenate(alone))) > 20
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda seed: play(url, seed), range(12)))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_row_that_breaks_down_leaves_its_session_as_it_was_and_the_others_alone():
    def step(parameters, carry, seen, _key):
        total = carry["sum"] * ~seen.first + seen.observation[:, 0]
        return parameters["w"] * jnp.sqrt(total)[:, None], {"sum": total}

    initial = lambda rows: {"sum": jnp.zeros(rows)}
    action_spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    engine = Engine(Policy(step, {"w": jnp.ones(())}, initial, SPEC, action_spec, {}, {}), sessions=3, rows=2)
    ask_for = lambda slot, value, first=False: Request(slot, 0, 0, first, np.float32([value, 0]), 0.0, 1.0)
    assert [answer.fine for answer in engine.act([ask_for(0, 4.0, True), ask_for(1, -4.0, True)])] == [True, False]
    bad, good = engine.act([ask_for(0, -9.0), ask_for(1, 9.0)])
    assert (bad.fine, good.fine) == (False, True)
    np.testing.assert_allclose(good.action, [3.0])
    np.testing.assert_allclose(engine.act([ask_for(0, 5.0)])[0].action, [3.0])  # 4 + 5, as if -9 had never been
    np.testing.assert_allclose(engine.act([ask_for(0, 1.0, True)])[0].action, [1.0])


def test_it_compiles_once(policy):
    engine = Engine(policy, sessions=4, rows=3)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", None)  # nobody compiles any more
        for count in (1, 2, 3):
            asked = [Request(slot, 0, count, True, np.zeros(2, np.float32), 0.0, 1.0) for slot in range(count)]
            assert len(engine.act(asked)) == count


def test_what_it_says_of_itself(url):
    status, told = ask(url, "GET", "/spec")
    assert status == 200
    assert told["observation"]["shape"] == [2]
    assert (told["action"]["shape"], told["action"]["maximum"], told["policy"]["agent"]) == ([1], 1.0, "dreamer")
    assert ask(url, "GET", "/health") == (200, {"status": "ok"})


BAD = {
    "not JSON": (400, b"{observation", "the body is not JSON"),
    "NaN": (400, b'{"observation": [NaN, 1]}', "the body is not JSON"),
    "Infinity": (400, b'{"observation": [1, 2], "reward": Infinity}', "the body is not JSON"),
    "deep": (400, b"[" * 9000, "the body is not JSON"),
    "a list": (400, b"[1, 2]", "the body must be a JSON object, not [1, 2]"),
    "nothing": (422, b"{}", "observation is missing"),
    "too short": (422, b'{"observation": [1]}', "observation has the shape [1], but must have [2]"),
    "deeper": (422, b'{"observation": [[1, 2]]}', "observation has the shape [1, 2], but must have [2]"),
    "much deeper": (422, b'{"observation": ' + b"[" * 99 + b"]" * 99 + b"}", "observation must be nested lists of"),
    "uneven": (422, b'{"observation": [1, [2]]}', "observation must be nested lists of numbers of the shape [2]"),
    "ragged": (422, b'{"observation": [[1], [1, 2]]}', "observation must be nested lists of numbers of the shape [2]"),
    "words": (422, b'{"observation": ["1", "2"]}', "observation must be nested lists of numbers of the shape [2]"),
    "truths": (422, b'{"observation": [true, false]}', "observation must be nested lists of numbers of the shape [2]"),
    "null": (422, b'{"observation": null}', "observation must be nested lists of numbers of the shape [2]"),
    "an object": (422, b'{"observation": {"state": [1, 2]}}', "observation must be nested lists of numbers"),
    "no float": (422, b'{"observation": [1e39, 0]}', "observation holds a number that is not finite in 32 bits"),
    "no double": (422, b'{"observation": [1e999, 0]}', "observation holds a number that is not finite in 32 bits"),
    "a giant": (422, b'{"observation": [1' + b"0" * 400 + b", 0]}", "observation must be nested lists of numbers"),
    "a word for reward": (422, b'{"observation": [1, 2], "reward": "1"}', "reward is '1', but must be a number"),
    "a discount": (422, b'{"observation": [1, 2], "discount": 2}', "discount is 2.0, but must lie between 0 and 1"),
    "a first": (422, b'{"observation": [1, 2], "first": 1}', "first is 1, but must be true or false"),
    "a key": (422, b'{"observation": [1, 2], "frist": true}', "unknown key 'frist'; known are discount, first"),
    "too large": (413, b'{"observation": [1, ' + b" " * 20_000 + b"2]}", "the body may have 16448 bytes"),
}


@pytest.mark.parametrize("how", BAD)
def test_bad_requests_are_one_sentence(how, url):
    status, body, said = BAD[how]
    name = begin(url, 1)
    got, told = ask(url, "POST", f"/sessions/{name}/act", raw=body)
    assert (got, list(told)) == (status, ["error"])
    assert told["error"].startswith(said)
    assert "\n" not in told["error"]
    # The session is as it was.
    good = ask(url, "POST", f"/sessions/{name}/act", {"observation": [1, 2]})
    assert (good[0], good[1]["step"]) == (200, 1)
    assert ask(url, "DELETE", f"/sessions/{name}")[0] == 204


def test_bad_paths_and_headers_are_refused(url):
    assert ask(url, "POST", "/sessions/none/act", {"observation": [1, 2]})[0] == 404
    assert ask(url, "DELETE", "/sessions/none")[0] == 404
    # Answered as all else is, and no client is sent on to where its own Host header says.
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/sessions", 405), ("POST", "/sessions/", 404)):
        got, told = ask(url, method, path, {} if method == "POST" else None)
        assert (got, list(told)) == (status, ["error"])
    assert ask(url, "POST", "/sessions", {"seed": -1})[0] == 422
    assert ask(url, "POST", "/sessions", {"seed": 0.5})[0] == 422
    assert ask(url, "POST", "/sessions", {}, Content_Type="text/plain")[0] == 415
    for host in ("evil.example", "evil.example:80", "[::2]", "10.0.0.1", ""):
        assert ask(url, "GET", "/health", Host=host)[0] in {400, 421}
    for host in ("localhost", "LOCALHOST:99", "[::1]:5", "127.0.0.1"):
        assert ask(url, "GET", "/health", Host=host)[0] == 200


def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(url):
    connection = http.client.HTTPConnection("127.0.0.1", url, timeout=30)
    chunks = (b" " * 4000 for _ in range(10))
    connection.request("POST", "/sessions", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_there_is_room_for_so_many_sessions_and_no_more(url):
    names = [begin(url, seed) for seed in range(40)]
    assert len(set(names)) == 40
    assert min(len(name) for name in names) >= 32
    status, told = ask(url, "POST", "/sessions", {})
    assert (status, told["error"][:21]) == (429, "there are 40 sessions")
    assert ask(url, "DELETE", f"/sessions/{names[0]}")[0] == 204
    names[0] = begin(url, 0)
    for name in names:
        ask(url, "DELETE", f"/sessions/{name}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3))
IMAGE = specs.BoundedArray((2, 2, 1), np.uint8, 0, 255)
KEYS = st.sampled_from(["observation", "reward", "discount", "first", "seed", "x"])


def understood(ask):
    """Return what a request asks for, or the status it is refused with."""
    try:
        return ask()
    except RefusedError as refused:
        return refused.status


@settings(max_examples=40)
@given(value=st.dictionaries(KEYS, JSON), spec=st.sampled_from([SPEC, IMAGE, {"a": SPEC, "b": IMAGE}]))
def test_any_json_is_understood_or_refused(value, spec):
    found = understood(lambda: requests.act_of(requests.parse(json.dumps(value).encode()), spec))
    if isinstance(found, int):
        assert found in {400, 422}
    else:
        assert np.isfinite([found.reward, found.discount]).all()


@settings(max_examples=40)
@given(raw=st.binary(max_size=40))
def test_any_bytes_are_understood_or_refused(raw):
    found = understood(lambda: requests.parse(raw))
    assert found == 400 or isinstance(found, dict)


def test_images_and_named_observations():
    picture = [[[0], [255]], [[3], [4]]]
    value = {"observation": {"a": [1, 2.5], "b": picture}}
    seen = requests.act_of(value, {"a": SPEC, "b": IMAGE}).observation
    assert (seen["a"].dtype, seen["b"].dtype) == (np.float32, np.uint8)
    assert (seen["a"].tolist(), seen["b"].tolist()) == ([1.0, 2.5], picture)
    for wrong in ([[[0], [256]], [[3], [4]]], [[[0], [-1]], [[3], [4]]], [[[0], [0.5]], [[3], [4]]]):
        with pytest.raises(RefusedError, match=r"observation\.b must hold whole numbers from 0 to 255"):
            requests.act_of({"observation": {"a": [1, 2], "b": wrong}}, {"a": SPEC, "b": IMAGE})
    with pytest.raises(RefusedError, match="must be an object with a, b"):
        requests.act_of({"observation": {"a": [1, 2]}}, {"a": SPEC, "b": IMAGE})
    assert requests.largest_body({"a": SPEC, "b": IMAGE}) == 16_384 + 32 * 6


def test_sessions_end_when_nobody_uses_them():
    now = [0.0]
    sessions = Sessions(2, idle=10.0, clock=lambda: now[0])
    early = sessions.begin(1)
    now[0] = 6.0
    late = sessions.begin(2)
    now[0] = 9.0
    slot = sessions.get(early).slot
    now[0] = 17.0
    assert len(sessions) == 2
    with pytest.raises(RefusedError) as refused:
        sessions.get(late)
    assert refused.value.status == 404
    assert sessions.get(early).slot == slot
    now[0] = 40.0
    sessions.expire()
    assert len(sessions) == 0
    assert len({sessions.get(sessions.begin(None)).slot for _ in range(2)}) == 2


def test_a_slot_is_not_given_away_while_it_is_acted_in():
    sessions = Sessions(1, idle=10.0)
    name = sessions.begin(0)
    session = sessions.get(name)
    session.busy = True
    sessions.end(name)
    with pytest.raises(RefusedError, match="there are 0 sessions, as many as may be"):
        sessions.begin(0)
    session.busy = False
    sessions.release(session)
    assert sessions.get(sessions.begin(0)).slot == session.slot


def test_requests_are_gathered_while_others_are_computed():
    sizes, going = [], threading.Event()

    def act(batch):
        going.wait(5)
        sizes.append(len(batch))
        if any(request.reward < 0 for request in batch):
            raise RuntimeError("broken")
        return [Answer(np.float32([request.slot]), fine=True) for request in batch]

    async def asked():
        batcher = Batcher(act, rows=4)
        row = lambda slot, reward=0.0: Request(slot, 0, 0, True, None, reward, 1.0)
        first = asyncio.create_task(batcher.act(row(0)))
        await asyncio.sleep(0.01)
        rest = [asyncio.create_task(batcher.act(row(slot))) for slot in range(1, 7)]
        await asyncio.sleep(0.01)
        going.set()
        answers = await asyncio.gather(first, *rest)
        assert not batcher.broken
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.act(row(0, -1.0))
        assert batcher.broken
        after = await batcher.act(row(9))
        batcher.close()
        return [answer.action[0] for answer in (*answers, after)]

    assert asyncio.run(asked()) == [0, 1, 2, 3, 4, 5, 6, 9]
    assert sizes == [1, 4, 2, 1, 1]


def test_a_token_is_asked_for(policy):
    limits = server.Settings(port=0, token="x" * 19, max_sessions=2, batch=1)
    with server.background(policy, limits) as where:
        port = int(where.rpartition(":")[2])
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {limits.token}"},
                        {"Authorization": "Bearer \xff"}):
            assert ask(port, "POST", "/sessions", {}, **headers)[0] == 401
        assert ask(port, "GET", "/spec")[0] == 401
        assert ask(port, "GET", "/health")[0] == 200
        assert ask(port, "POST", "/sessions", {}, Authorization=f"Bearer {limits.token}")[0] == 201


def token_file(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def no_names(monkeypatch):
    """Names are looked up in no network: only this machine's own are known."""
    look_up = socket.getaddrinfo

    def known(host, *args, **kwargs):
        if not (host == "localhost" or re.fullmatch(r"[0-9.]+|[0-9a-f:]+", host)):
            raise socket.gaierror(-2, "Name or service not known")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", known)


@pytest.mark.usefixtures("no_names")
def test_bad_words_are_one_sentence(run_dir, tmp_path, capsys):
    short = str(token_file(tmp_path / "short", "abc"))
    open_to_all = str(token_file(tmp_path / "open", "a" * 32, 0o644))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, said in (
            (["--port", port], f"port {port} of 127.0.0.1 cannot be listened on (Address already in use)"),
            (["--port", "70000"], "--port is 70000, but must be from 1 to 65535"),
            (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in, so a token is needed"),
            (["--host", "::"], "so a token is needed"),
            (["--host", "no host"], "--host 'no host' is no address of this machine"),
            (["--max_sessions", "0"], "--max_sessions is 0, but must be from 1"),
            (["--batch", "0"], "--batch is 0, but must be from 1"),
            (["--idle", "0"], "--idle is 0.0, but must be a positive number"),
            (["--token_file", short], "must hold one word of 16 to 1024 characters"),
            (["--token_file", open_to_all], "can be read by others on this machine: chmod 600"),
            (["--token_file", "absent"], "token file absent cannot be read: No such file"),
        ):
            assert main(["serve", str(run_dir), *words]) == 2
            error = capsys.readouterr().err
            assert said in error
            assert error.count("\n") == 1
    assert server.read_token(token_file(tmp_path / "good", "a" * 32 + "\n")) == "a" * 32


def test_without_the_extra_it_is_one_sentence(run_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(run_dir)]) == 2
    assert "uvicorn is not installed, which this needs: pip install 'mbrl[serve]'" in capsys.readouterr().err


def test_the_command_serves_and_ends_at_a_signal(run_dir):
    words = ["serve", str(run_dir), "--port", "0", "--max_sessions", "8", "--batch", "4"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-m", "mbrl", *words], **piped,
                               env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        said = next(line for line in process.stdout if "serving on" in line)
        where = re.search(r"(http://127\.0\.0\.1:\d+);", said)[1]
        figures = asyncio.run(bench_load.run(bench_load.Load(where, sessions=8, seconds=0.3)))
        assert figures["acts"] > 8
        assert figures["refused"] == figures["strange"] == 0
        assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "stopped\n", "")


@pytest.mark.usefixtures("no_names")
def test_a_host_that_is_not_there():
    assert server.is_loopback("localhost")
    assert server.is_loopback("::1")
    assert not server.is_loopback("0.0.0.0")
    with pytest.raises(UserError, match="is no address of this machine"):
        server.is_loopback("a" * 300)
