"""World models without parameters to learn, of which every return is known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl.worldmodels.base import Dream, Prediction


class Known(NamedTuple):
    """A prediction that is certain of its value."""

    value: jax.Array

    def mean(self):
        return self.value


def unused(*_):
    raise AssertionError("a behaviour has no business here")


class ExactModel:
    """What the models share: latents ``[*N, F]`` that are their own features, rolled forward by ``move``."""

    size = 1
    init = step = observe = loss = pack = unpack = unused

    def initial(self, batch_size):
        return jnp.zeros((batch_size, self.size))

    def features(self, latent):
        return latent

    def imagine(self, params, key, latent, policy, horizon):
        def body(latent, key):
            action = policy(latent, key)
            following = self.move(params, latent, action)
            return following, (following, action)

        _, (latents, actions) = jax.lax.scan(body, latent, jax.random.split(key, horizon))
        return Dream(jnp.concatenate([latent[None], latents]), actions)

    def predict(self, params, latent):
        reward, discount = self.outcome(params, latent)
        return Prediction(Known(reward), Known(discount), {})


LINE = {"gain": jnp.float32(1)}


class Line(ExactModel):
    """s' = s + gain · a, reward -s'² on arrival; goes on with probability exp(-s'² / 4)."""

    def move(self, params, latent, action):
        return latent + params["gain"] * action

    def outcome(self, params, latent):
        s = latent[..., 0]
        return -params["gain"] * s**2, jnp.exp(-(s**2) / 4)


class Choice(ExactModel):
    """The next state is the one-hot action, its reward linear in it: there the straight-through gradient is exact."""

    size = 3
    prices = np.array([1.0, 2.0, 4.0], np.float32)

    def move(self, params, latent, action):
        del params, latent
        return action

    def outcome(self, params, latent):
        del params
        return latent @ self.prices, jnp.ones(latent.shape[:-1])


class Clock(ExactModel):
    """The state is the time; rewards and discounts are read from tables, whatever is done."""

    def __init__(self, rewards, discounts):
        self.tables = jnp.array(rewards), jnp.array(discounts)

    def move(self, params, latent, action):
        del params, action
        return latent + 1

    def outcome(self, params, latent):
        del params
        now = latent[..., 0].astype(jnp.int32)
        return self.tables[0][now], self.tables[1][now]
