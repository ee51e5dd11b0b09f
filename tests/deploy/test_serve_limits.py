"""What a server is held to under load: nobody's memory is another's, and what is bounded."""

import asyncio
import itertools
import socket

import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.bench import load as bench_load
from mbrl.core.errors import UserError
from mbrl.deploy.engine import Engine
from mbrl.deploy.policy import Policy
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
