"""What a server is held to under load: nobody's memory is another's, and what is bounded."""

import asyncio
import itertools
import json
import socket
import tracemalloc
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.bench import load as bench_load
from mbrl.core.errors import UserError
from mbrl.deploy import requests
from mbrl.deploy.engine import Engine
from mbrl.deploy.policy import Policy
from mbrl.deploy.sessions import RefusedError
from mbrl.replay import memory

pytest.importorskip("starlette")
server = pytest.importorskip("mbrl.deploy.server")

SPEC = specs.Array((2,), np.float32)


def test_the_load_notices_answers_made_of_another_sessions_memory(monkeypatch):
    """Thirty-two sessions are two of each kind; one that acts in another's slot gets another kind's answers."""

    def step(parameters, carry, seen, _key):
        total = 0.5 * carry["sum"] + parameters["w"] * seen.observation[:, 0]
        return jnp.tanh(total)[:, None], {"sum": total}

    initial = lambda rows: {"sum": jnp.zeros(rows)}
    task = {"environment": "none", "action_repeat": 1}
    action = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    policy = Policy(step, {"w": jnp.ones(())}, initial, SPEC, action, task, {})

    def strange():
        with server.background(policy, server.Settings(port=0, max_sessions=32, batch=8)) as where:
            figures = asyncio.run(bench_load.run(bench_load.Load(where, sessions=32, seconds=0.5)))
        assert figures["acts"] > 32
        assert figures["refused"] == 0
        return figures["strange"]

    assert strange() == 0
    right, turn = Engine.act, itertools.count()
    wrong = lambda asked: [one._replace(slot=(one.slot + next(turn)) % 32) for one in asked]
    monkeypatch.setattr(Engine, "act", lambda self, asked: right(self, wrong(asked)))
    assert strange() > 0


@pytest.mark.parametrize("said", [b"", b"POST /sessions HTT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET"])
def test_a_connection_on_which_nothing_comes_is_closed(policy, monkeypatch, said):
    monkeypatch.setattr(server, "_SILENCE", 0.3)
    with (
        server.background(policy, server.Settings(port=0, max_sessions=1, batch=1)) as where,
        socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2])), timeout=30) as held,
    ):
        held.sendall(said)
        while held.recv(4096):  # an answer, perhaps; nothing once it is closed, which else would end in a timeout
            pass


def test_more_sessions_than_fit_are_refused(monkeypatch):
    initial = lambda rows: {"sum": jnp.zeros((rows, 256))}  # a KiB each
    action_spec = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    policy = Policy(lambda *_: None, {}, initial, SPEC, action_spec, {}, {})
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 * 2**10)
    said = r"--max_sessions is 41, of 1.0 KiB each, but 100.0 KiB are free; at most 40 fit"
    with pytest.raises(UserError, match=said):
        Engine(policy, sessions=41, rows=2)


LONG = "x" * 8000
WORDS = [[LONG, *[""] * 1000], [[LONG], *[[""]] * 1000], [1, LONG, *[""] * 1000]]


@pytest.mark.parametrize("value", WORDS)
def test_words_take_no_more_memory_than_their_body(value):
    """NumPy would pad each word of 0 letters to 8000: 32 MB of this body, gigabytes of one that pixels may have."""
    assert len(json.dumps({"observation": value})) <= requests.largest_body(SPEC)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match=r"observation must be nested lists of numbers of the shape \[2\]"):
            requests.act_of({"observation": value}, SPEC)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def told(where, path, body=None):
    """Ask, and return the status and what the answer's JSON says."""
    content = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(where + path, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_who_waits_when_the_device_fails_is_told_so_too(policy, monkeypatch, caplog):
    batches = []

    def fail(_engine, asked):
        batches.append(asked)
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Engine, "act", fail)
    with server.background(policy, server.Settings(port=0, max_sessions=3, batch=2)) as where:
        names = [told(where, "/sessions", {})[1]["session"] for _ in range(3)]
        act = lambda name: told(where, f"/sessions/{name}/act", {"observation": [1, 2]})
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(act, names))
        answers += [act(names[0]), told(where, "/health")]
    assert batches
    assert answers == [(503, {"error": "the device failed in a step and the sessions' memory is lost; start the server "
                                       "anew"})] * 5
    assert caplog.text.count("RuntimeError: the device is gone") == 1  # for who runs the server, and once
