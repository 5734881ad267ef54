"""Runs of a sweep spread over devices: as many on each, and nothing travels between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Axes = Literal["settings", "seeds", "both", "none"]
"""Which of the two axes of a group of runs an array has."""


class Lanes(NamedTuple):
    """How a group of runs is spread.

    Attributes:
      mesh: of one axis, "lanes".
      axis: which of the two axes of the group is divided among the devices.
    """

    mesh: Mesh
    axis: Literal["settings", "seeds"]

    def sharding(self, axes: Axes) -> NamedSharding | None:
        """Returns the sharding of an array with these axes; None on one device."""
        return None if self.mesh.size == 1 else self._sharding(axes)

    def divided(self, settings: int, seeds: int) -> tuple[int, int]:
        """Returns how many settings and seeds each device has, of so many together."""
        if self.axis == "settings":
            return math.ceil(settings / self.mesh.size), seeds
        return settings, math.ceil(seeds / self.mesh.size)

    def together(self, settings: int, seeds: int) -> tuple[int, int]:
        """Returns how many settings and seeds all devices have, from those of each."""
        if self.axis == "settings":
            return settings * self.mesh.size, seeds
        return settings, seeds * self.mesh.size

    def where_needed(self, settings: int, seeds: int) -> Lanes:
        """Returns the same without the devices that would have no work of their own."""
        count = settings if self.axis == "settings" else seeds
        needed = math.ceil(count / math.ceil(count / self.mesh.size))
        return self._replace(mesh=_of(self.mesh.devices[:needed]))

    def place(self, tree: Any, axes: Axes) -> Any:
        """Puts arrays with these axes on the devices, the last entry repeated until they divide.

        Every process has the whole arrays, and puts its part of them on its devices.
        """
        if self.mesh.size == 1:
            return tree

        def filled(leaf: Any) -> Any:
            count = len(leaf)
            whole = self.mesh.size * math.ceil(count / self.mesh.size)
            return leaf[np.minimum(np.arange(whole), count - 1)]

        return _put(jax.tree.map(filled, tree) if axes == self.axis else tree, self._sharding(axes))

    def spread(
        self,
        function: Callable[..., Any],
        arguments: tuple[Axes, ...],
        result: Axes | tuple[Axes, ...],
        **options: Any,
    ) -> Callable[..., Any]:
        """Compiles a function of whole groups for the devices, each of which has its part.

        Args:
          function: of arrays with these axes in front.
          arguments: the axes of each argument.
          result: those of the results, a prefix of their tree.
          **options: for `jax.jit`.
        """
        if self.mesh.size == 1:
            return jax.jit(function, **options)
        specs = tuple(map(self._spec, arguments)), jax.tree.map(self._spec, result)
        shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
        # Constants of the transform start the same on every device, and differ later.
        spread = jax.shard_map(
            function, mesh=self.mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False
        )
        return jax.jit(spread, in_shardings=shardings[0], out_shardings=shardings[1], **options)

    def _sharding(self, axes: Axes) -> NamedSharding:
        return NamedSharding(self.mesh, self._spec(axes))

    def _spec(self, axes: Axes) -> PartitionSpec:
        if axes == "both":
            return (
                PartitionSpec("lanes") if self.axis == "settings" else PartitionSpec(None, "lanes")
            )
        return PartitionSpec("lanes") if axes == self.axis else PartitionSpec()


def checked_mesh(mesh: Mesh | None) -> Mesh:
    """Returns a mesh of one axis: of all devices of a mesh, by default of all of this process.

    Raises:
      TypeError: not a mesh.
      ValueError: this process has none of its devices, or another mesh is set.
    """
    is_set = not jax.sharding.get_abstract_mesh().empty
    if mesh is None:
        # Where a mesh is set, programs are for that one.
        devices = np.asarray(jax.local_devices()[: 1 if is_set else None])
    elif isinstance(mesh, Mesh):
        devices = mesh.devices.reshape(-1)
    else:
        raise TypeError(f"mesh must be a jax.sharding.Mesh or None; got {mesh!r}.")
    if is_set and devices.size > 1:
        raise ValueError(
            f"mesh is {mesh}, and another one is set by jax.set_mesh; call sweeps outside of it."
        )
    processes = {device.process_index for device in devices}
    if jax.process_index() not in processes:
        raise ValueError(
            f"mesh is {mesh}, whose devices are all of other processes, {sorted(processes)}, and"
            f" this is {jax.process_index()}; allowed: devices of the processes that call sweeps."
        )
    return _of(devices)


def first_device() -> Mesh:
    """Returns the mesh of this process's first device alone."""
    return _of(np.asarray(jax.local_devices()[:1]))


def _of(devices: np.ndarray) -> Mesh:
    return Mesh(devices, ("lanes",), axis_types=(AxisType.Auto,))


def lanes_for(mesh: Mesh, settings: int, seeds: int) -> Lanes:
    """Returns the division that leaves the fewest devices without work: settings, if equal."""

    def runs_of_each(lanes: Lanes) -> int:
        return math.prod(lanes.divided(settings, seeds))

    return min((Lanes(mesh, axis) for axis in ("settings", "seeds")), key=runs_of_each)


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays that start alike in all processes, whole on every device of a mesh."""
    return _put(tree, NamedSharding(mesh, PartitionSpec())) if mesh.size > 1 else tree


def fetched(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays of a mesh so that this process can read all of them.

    Where other processes hold parts of them, all processes have to ask at once, and the arrays go
    to this process's first device, one after the other.
    """
    gather = jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def one(leaf: jax.Array) -> jax.Array:
        return leaf if leaf.is_fully_addressable else gather(leaf).addressable_data(0)

    return jax.tree.map(one, tree)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(leaf: Any) -> jax.Array:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)
