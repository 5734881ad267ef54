"""Computing on arrays that lie on a mesh with explicit axes, or inside of `jax.shard_map`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

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
    if len(set(explicit)) > 1:
        raise ValueError(
            "params, state and what update is given lie on several meshes with explicit axes:"
            f" {', '.join(sorted(map(str, set(explicit))))}; allowed: one. Move them with"
            " jax.device_put."
        )
    specs = jax.tree.map(_spec, like)
    with jax.sharding.use_abstract_mesh(explicit[0]):
        return jax.sharding.auto_axes(function, out_sharding=specs)(*operands)


def place(array: jax.Array, sharding: Sharding) -> jax.Array:
    """Returns the array with a sharding: on its own mesh, or in a function of `with_auto_axes`."""
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return jax.lax.with_sharding_constraint(array, sharding)
    automatic = set(jax.sharding.get_abstract_mesh().auto_axes)
    if automatic and automatic >= set(sharding.mesh.axis_names):
        return jax.lax.with_sharding_constraint(array, sharding.spec)
    return jax.sharding.reshard(array, sharding)


def current(mesh: Any) -> Any:
    """Returns a mesh as `jax.shard_map` takes it: None where it is that of the context.

    There the types of its axes may be others, as in a function of `with_auto_axes`.
    """
    context = jax.sharding.get_abstract_mesh()
    return None if context.shape_tuple == mesh.shape_tuple else mesh


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
    """Returns a new state that lies where the params lie.

    Every tree in it that is shaped like the params has their shardings, traced or not.

    Scalars lie on every device of the params' mesh. A count made anew lies on the first device
    alone. It is moved at the first update, but not where it is saved before and restored: then it
    is committed to that device, and the params to others.
    """
    leaves, structure = jax.tree.flatten(params)
    if not _arrays(leaves):
        return state

    def is_copy(node: Any) -> bool:
        others, found = jax.tree.flatten(node)
        return found == structure and list(map(jnp.shape, others)) == list(map(jnp.shape, leaves))

    def placed(node: Any) -> Any:
        return jax.tree.map(_like, node, params) if is_copy(node) else node

    return _scalars_beside(leaves, jax.tree.map(placed, state, is_leaf=is_copy))


def _like(new: Any, leaf: Any) -> Any:
    """Returns a new array with the sharding of another of its shape."""
    if not isinstance(new, jax.Array) or not isinstance(leaf, jax.Array):
        return new
    if isinstance(leaf, Tracer):
        # The compiler lays out what is computed from it as it is itself; zeros have no layout.
        return jnp.where(leaf == leaf, new, new)
    if isinstance(new, Tracer) or not isinstance(leaf.sharding, NamedSharding):
        return new
    return jax.device_put(new, leaf.sharding)


def _scalars_beside(leaves: list[Any], state: Any) -> Any:
    shardings = [leaf.sharding for leaf in _arrays(leaves) if not isinstance(leaf, Tracer)]
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
