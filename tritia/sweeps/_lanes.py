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
        return None if self.mesh.size == 1 else NamedSharding(self.mesh, self._spec(axes))

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
          result: those of the results; with "both" first, a pair of a tree and a pair.
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

    def _spec(self, axes: Axes) -> PartitionSpec:
        if axes == "both":
            return (
                PartitionSpec("lanes") if self.axis == "settings" else PartitionSpec(None, "lanes")
            )
        return PartitionSpec("lanes") if axes == self.axis else PartitionSpec()


def checked_mesh(mesh: Mesh | None) -> Mesh:
    """Returns a mesh of one axis: of all devices of a mesh, by default of this process's.

    Raises:
      TypeError: not a mesh.
      ValueError: a device of it belongs to another process, or another mesh is set.
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
    if any(device.process_index != jax.process_index() for device in devices):
        raise ValueError(
            f"mesh is {mesh}, with devices of other processes; allowed: devices of this process,"
            " jax.local_devices(). Give each process its own settings."
        )
    return Mesh(devices, ("lanes",), axis_types=(AxisType.Auto,))


def lanes_for(mesh: Mesh, settings: int, seeds: int) -> Lanes:
    """Returns the division that leaves the fewest devices without work: settings, if equal."""

    def runs_of_each(lanes: Lanes) -> int:
        return math.prod(lanes.divided(settings, seeds))

    return min((Lanes(mesh, axis) for axis in ("settings", "seeds")), key=runs_of_each)
