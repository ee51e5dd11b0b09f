"""A policy as a PyTorch module: JAX computes, DLPack hands arrays over, and gradients flow back through both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import PyTree

from mbrl.core.errors import UserError
from mbrl.deploy.policy import Policy, Seen, carry_like, seen_like

Tensors: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"


class TorchPolicy(torch.nn.Module):
    """A policy of tensors ``[N, ...]``, differentiated with respect to observation and carry.

    The backward pass is `jax.vjp` of the same program; nothing of the forward pass is stored but its arguments, so it
    is computed twice. Parameters are constants: PyTorch neither sees nor trains them. Through an index (a discrete
    action) no gradient flows, but through the carry it does.
    """

    def __init__(self, policy: Policy) -> None:
        """Take a policy from ``make_policy``."""
        super().__init__()
        self.policy = policy
        self._names = sorted(carry_like(policy, 1))
        self._seen = seen_like(policy.observation_spec, 1)
        self._flat = _Flat(policy)

    def initial(self, rows: int) -> dict[str, torch.Tensor]:
        """Return the carry of ``rows`` environments never seen."""
        # Tensors may be written to, which arrays of JAX may not: these are copies.
        return {name: to_torch(leaf).clone() for name, leaf in self.policy.initial(rows).items()}

    def forward(
        self,
        observation: Tensors,
        carry: dict[str, torch.Tensor],
        first: torch.Tensor,
        seed: int = 0,
        reward: torch.Tensor | None = None,
        discount: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Act: ``(action [N, ...], carry)``, the action in the environment's own units.

        Args:
            observation: ``[N, ...]``, or a dict of them.
            carry: from ``initial`` or the last call.
            first: ``[N]``, true where an episode begins.
            seed: of all that is random in this call.
            reward: ``[N]`` of the transition that led here; zeros if None.
            discount: ``[N]``, 0 where the episode has terminated; ones if None.

        Raises:
            UserError: an observation or a carry of another shape or name.
        """
        rows = int(first.shape[0])
        seen, structure = jax.tree.flatten(self._seen.observation)
        given = jax.tree.leaves(observation)
        if jax.tree.structure(observation) != structure:
            raise UserError(f"the policy observes {structure}, but was given {jax.tree.structure(observation)}")
        if sorted(carry) != self._names:
            known = ", ".join(self._names) or "empty"
            raise UserError(f"the policy's carry is {known}, but was given {', '.join(carry) or 'none'}")
        tensors = [*given, *(carry[name] for name in self._names)]
        likes = [*seen, *(carry_like(self.policy, 1)[name] for name in self._names)]
        tensors = [_cast(tensor, like, rows) for tensor, like in zip(tensors, likes, strict=True)]
        numbers = [torch.zeros(rows) if reward is None else reward, torch.ones(rows) if discount is None else discount]
        numbers = (np.asarray(number.detach().cpu(), np.float32) for number in numbers)
        rest = (*numbers, np.asarray(first.cpu(), bool), np.uint32(seed))
        action, *after = _Call.apply(self._flat, rest, *tensors)
        return action, dict(zip(self._names, after, strict=True))


class _Flat:
    """The policy as functions of a list of arrays: the observation's leaves, then the carry's by name."""

    def __init__(self, policy: Policy) -> None:
        names = sorted(carry_like(policy, 1))
        structure = jax.tree.structure(seen_like(policy.observation_spec, 1).observation)
        parameters = jax.tree.map(jnp.asarray, policy.parameters)

        def run(parameters: Any, arrays: list[Any], rest: Any) -> list[Any]:
            reward, discount, first, seed = rest
            observation = jax.tree.unflatten(structure, arrays[: structure.num_leaves])
            carry = dict(zip(names, arrays[structure.num_leaves :], strict=True))
            seen = Seen(observation, reward, discount, first)
            action, after = policy.step(parameters, carry, seen, jax.random.key(seed))
            return [action, *(after[name] for name in names)]

        def pull(parameters: Any, arrays: list[Any], rest: Any, cotangents: list[Any]) -> list[Any]:
            smooth = [number for number, array in enumerate(arrays) if _is_float(array)]

            def of_smooth(leaves: list[Any]) -> list[Any]:
                merged = list(arrays)
                for number, leaf in zip(smooth, leaves, strict=True):
                    merged[number] = leaf
                return [out for out in run(parameters, merged, rest) if _is_float(out)]

            return jax.vjp(of_smooth, [arrays[number] for number in smooth])[1](cotangents)[0]

        forwards, backwards = jax.jit(run), jax.jit(pull)
        self.forwards = lambda arrays, rest: forwards(parameters, arrays, rest)
        self.backwards = lambda arrays, rest, cotangents: backwards(parameters, arrays, rest, cotangents)


class _Call(torch.autograd.Function):
    """One call of a ``_Flat``, in PyTorch's graph."""

    @staticmethod
    def forward(ctx: Any, flat: _Flat, rest: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Tensors are saved rather than arrays that share their memory, so that PyTorch notices writes to them.
        ctx.flat, ctx.rest = flat, rest
        ctx.save_for_backward(*tensors)
        out = tuple(to_torch(array) for array in flat.forwards(_to_jax(tensors), rest))
        ctx.mark_non_differentiable(*(tensor for tensor in out if not tensor.is_floating_point()))
        return out

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors = ctx.saved_tensors
        smooth = [tensor for tensor in cotangents if tensor is not None and tensor.is_floating_point()]
        pulled = iter(ctx.flat.backwards(_to_jax(tensors), ctx.rest, _to_jax(smooth)))
        found = [to_torch(next(pulled)) if tensor.is_floating_point() else None for tensor in tensors]
        return (None, None, *found)


def rehearse(module: TorchPolicy) -> None:
    """Call a policy once on zeros, forwards and backwards.

    Raises:
        UserError: what comes back is not finite, in either direction.
    """
    seen = module._seen.observation
    observation = jax.tree.map(lambda like: torch.zeros(like.shape, dtype=_dtype(like)), seen)
    leaves = [leaf.requires_grad_() for leaf in jax.tree.leaves(observation) if leaf.is_floating_point()]
    action, after = module(observation, module.initial(1), torch.ones(1, dtype=torch.bool))
    outputs = [leaf for leaf in (action, *after.values()) if leaf.is_floating_point()]
    if leaves and any(leaf.requires_grad for leaf in outputs):
        torch.stack([leaf.sum() for leaf in outputs]).sum().backward()
        outputs += [leaf.grad for leaf in leaves if leaf.grad is not None]
    if not all(bool(torch.isfinite(leaf).all()) for leaf in outputs):
        raise UserError("the policy's action or its gradient is not finite where all that is observed is zero")


def to_torch(array: jax.Array) -> torch.Tensor:
    """Return an array as a tensor on the same device, without copying it."""
    return torch.from_dlpack(array)


def _to_jax(tensors: Sequence[torch.Tensor]) -> list[jax.Array]:
    return [jnp.from_dlpack(tensor.detach().contiguous()) for tensor in tensors]


def _cast(tensor: torch.Tensor, like: Any, rows: int) -> torch.Tensor:
    if tuple(tensor.shape) != (rows, *like.shape[1:]):
        raise UserError(f"the policy takes [{rows}, {', '.join(map(str, like.shape[1:]))}] here, as `first` has {rows} "
                        f"rows, but was given {list(tensor.shape)}")
    return tensor.to(_dtype(like))


def _dtype(like: Any) -> torch.dtype:
    return getattr(torch, jnp.dtype(like.dtype).name)


def _is_float(array: PyTree) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)
