"""Computing on arrays that lie on a mesh with explicit axes, or inside of `jax.shard_map`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Axes = frozenset[str]


def with_auto_axes(function: Callable[..., Any], like: Any, *operands: Any) -> Any:
    """Calls a function of pytrees of arrays, with shardings inside it left to the compiler.

    Under explicit axes every contraction over a sharded axis has to name the sharding of its
    result. A solver's intermediate results need none in particular; only what it returns does.

    Args:
      function: of the operands; returns a tree like `like`.
      like: a pytree of arrays, which have the shardings that the result is to have.
      *operands: pytrees of arrays, or of what `jax.numpy.asarray` takes.
    """
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in _arrays((like, operands))]
    explicit = [mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types]
    if not explicit:
        return function(*operands)
    specs = jax.tree.map(_spec, like)
    with jax.sharding.use_abstract_mesh(explicit[0]):
        return jax.sharding.auto_axes(function, out_sharding=specs)(*operands)


def varying_axes(tree: Any) -> Axes:
    """Returns the axes of `jax.shard_map` over which any array of a tree varies."""
    return frozenset().union(*map(_varying, _arrays(tree)))


def vary(tree: Any, axes: Axes) -> Any:
    """Returns a tree of the same arrays, typed as varying over these axes of `jax.shard_map`."""

    def cast(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _varying(leaf)))
        return _cast_to_varying(leaf, missing) if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def beside(params: Any, state: Any) -> Any:
    """Returns a new state whose scalars lie on every device of the mesh that the params lie on.

    A count made anew lies on the first device alone. It is moved at the first update, but not where
    it is saved before and restored: then it is committed to that device, and the params to others.
    """
    shardings = [leaf.sharding for leaf in _arrays(params) if not isinstance(leaf, Tracer)]
    meshes = {one.mesh for one in shardings if isinstance(one, NamedSharding)}
    if len(meshes) != 1:
        return state
    everywhere = NamedSharding(meshes.pop(), PartitionSpec())

    def place(leaf: Any) -> Any:
        new = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.ndim == 0
        return jax.device_put(leaf, everywhere) if new else leaf

    return jax.tree.map(place, state)


def _arrays(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]


def _spec(leaf: Any) -> PartitionSpec:
    return jax.typeof(leaf).sharding.spec if isinstance(leaf, jax.Array) else PartitionSpec()


def _varying(leaf: Any) -> Axes:
    kind: Any = jax.typeof(leaf)
    if hasattr(kind, "manual_axis_type"):
        return kind.manual_axis_type.varying
    return getattr(kind, "vma", frozenset())  # before JAX 0.10


def _cast_to_varying(leaf: Any, axes: tuple[str, ...]) -> jax.Array:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(leaf, axes, to="varying")
    pvary: Any = vars(jax.lax)["pvary"]  # before JAX 0.9
    return pvary(leaf, axes)
