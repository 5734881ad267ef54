r"""The layers of `tritia.tiam` over the devices of a mesh axis.

The equal layers between the first and the last are stacked, and every device holds an equal share
of consecutive ones. A block :math:`B_l = (z_l, W_l, b_l, a_{l-1})` reads of others only
:math:`a_l`, of the block above, and :math:`z_{l-1}`, of the block below. In the order "red_black"
every second block is updated while the others wait, so that on each device half of the blocks are
one batch, and only the z and a at the ends of a device's share travel, to the neighbouring device.

The first layer is updated on the first device and the last one on the last. Their arrays of one row
per example have a slot on every device, of which the others are not used; their params are the
same on every device, as those of any replicated layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec as P

from tritia import _mesh as on_mesh
from tritia._mesh import vary
from tritia.alternating._blocks import dense
from tritia.alternating._blocks.activations import Activation
from tritia.alternating._full_batch.arrangement import Arrays, Biases, Start
from tritia.alternating._full_batch.block_pass import BlockPassResult
from tritia.alternating._full_batch.coefficients import Inertias
from tritia.alternating._full_batch.problem import (
    Displacements,
    Method,
    Numbers,
    Rejected,
    Variables,
)
from tritia.alternating._full_batch.stacked_blocks import (
    Block,
    Report,
    Shared,
    apart,
    block_value,
    blocks_of,
    together,
    visit_block,
)
from tritia.alternating._network import Network


class LayerParallel(NamedTuple):
    """Stacked layers over the devices of a mesh axis, between a first and a last layer.

    Arrays come in threes: of the first layer, of the stack and of the last. Those of one row per
    example are (devices, n, d), (layers, n, d) and (devices, n, d), split along their first axis;
    activations in twos, those that enter the stack and those that enter the last layer.

    Attributes:
      network: the layers of params.
      sharding: says the mesh and the axis.
    """

    network: Network
    sharding: NamedSharding

    @property
    def axis(self) -> str:
        return self.sharding.spec[0]  # type: ignore

    @property
    def devices(self) -> int:
        return self.sharding.mesh.shape[self.axis]

    def layers_of(self, params: optax.Params, dtype: Any) -> tuple[Arrays, Biases]:
        leaves = jax.tree.leaves(params)
        kernels, biases = (
            [None if at is None else jnp.asarray(leaves[at], dtype) for at in positions]
            for positions in self._leaves()
        )
        return tuple(kernels), tuple(biases)  # type: ignore

    def like_params(
        self, params: optax.Params, kernels: Sequence[jax.Array], biases: Sequence[jax.Array | None]
    ) -> optax.Params:
        leaves, structure = jax.tree.flatten(params)
        for positions, arrays in zip(self._leaves(), (kernels, biases), strict=True):
            for at, array in zip(positions, arrays, strict=True):
                if at is not None:
                    leaves[at] = array
        return jax.tree.unflatten(structure, leaves)

    def _leaves(self) -> list[list[int | None]]:
        """Where the kernels and the biases of the three are among the leaves of params."""
        ends = (0, 1, len(self.network.names) - 1)
        places = ([all_of[end] for end in ends] for all_of in self.network[1:3])
        return [[None if place is None else place.leaf for place in three] for three in places]

    def zeros(self, num_examples: int, dtype: Any) -> tuple[Arrays, Arrays]:
        sizes, ends = self.network.sizes, self.devices
        inner, stack = sizes[1], len(sizes) - 3

        def arrays(*shapes: tuple[int, int]) -> Arrays:
            return self.place(
                tuple(jnp.zeros((layers, num_examples, d), dtype) for layers, d in shapes)
            )

        z = arrays((ends, inner), (stack, inner), (ends, sizes[-1]))
        return z, arrays((stack, inner), (ends, inner))

    def place(self, arrays: Arrays) -> Arrays:
        sharding = NamedSharding(self.sharding.mesh, P(self.axis))
        return tuple(on_mesh.place(array, sharding) for array in arrays)

    def forward(
        self, method: Method, inputs: jax.Array, kernels: Arrays, biases: Biases
    ) -> tuple[Arrays, Arrays]:
        def pass_on(replicated: Any, split: Any) -> tuple[tuple[()], tuple[Arrays, Arrays]]:
            inputs, first, last = replicated
            index, count = jax.lax.axis_index(self.axis), len(split[0])
            first_z = dense.fit(inputs, *first)
            share = jnp.zeros((count, *first_z.shape), first_z.dtype)

            def through(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
                def layer(x: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
                    z = dense.fit(x, *layer)
                    return method.activations[1].value(z), (z, x)

                return jax.lax.scan(layer, x, split)

            def device(turn: jax.Array, carry: Any) -> Any:
                x, found = carry
                x, found = jax.lax.cond(turn == index, through, lambda x: (x, found), x)
                return jnp.where(turn + 1 == index, self._from_below(x), x), found

            start = method.activations[0].value(first_z), self._vary((share, share))
            x, (z, a) = jax.lax.fori_loop(0, self.devices, device, start)
            zs = first_z[None], z, dense.fit(x, *last)[None]
            return (), (zs, (a, x[None]))

        replicated = inputs, (kernels[0], biases[0]), (kernels[2], biases[2])
        return self._over_devices(pass_on, replicated, (kernels[1], biases[1]))[1]

    def fits(
        self, inputs: jax.Array, activations: Arrays, kernels: Arrays, biases: Biases
    ) -> Arrays:
        def each(replicated: Any, split: Any) -> tuple[tuple[()], Arrays]:
            inputs, first, last = replicated
            stack, entering, entering_last = split
            fits = (
                dense.fit(inputs, *first)[None],
                jax.vmap(dense.fit)(entering, *stack),
                dense.fit(entering_last[0], *last)[None],
            )
            return (), fits

        replicated = inputs, (kernels[0], biases[0]), (kernels[2], biases[2])
        split = (kernels[1], biases[1]), *activations
        return self._over_devices(each, replicated, split)[1]

    def update(
        self, method: Method, numbers: Numbers, inertias: Inertias, start: Start
    ) -> BlockPassResult:
        blocks = blocks_of(numbers, start)
        ends, slots = zip(*map(apart, (blocks[0], blocks[2])), strict=True)
        # An array that occurs twice stays one, and Python numbers stay such.
        traced = {
            id(leaf): leaf for leaf in jax.tree.leaves(inertias) if isinstance(leaf, jax.Array)
        }

        def run(replicated: Any, split: Any) -> tuple[Any, Any]:
            ends, examples, spectrum, traced, tau, eps = replicated
            slots, stack = split
            mine = jax.tree.map(lambda slot: slot[0], slots)
            first, last = map(together, ends, mine)
            read = jax.tree.map(lambda leaf, name: traced.get(name, leaf), inertias, names)
            shared = Shared(method, read, examples, spectrum, tau, eps)
            return self._pass(shared, first, stack, last)

        names = jax.tree.map(id, inertias)
        replicated = ends, start.examples, start.spectrum, traced, numbers.tau, numbers.eps
        found, kept = self._over_devices(run, replicated, (slots, blocks[1]))
        ends, end_reports, objective, loss, last_gap = found
        slots, stack, reports, gaps = kept
        first, last = map(together, ends, slots)
        new = Variables(
            (first.kernel, stack.kernel, last.kernel),
            (first.bias, stack.bias, last.bias),
            (first.z, stack.z, last.z),
            (stack.a, last.a),
        )

        def by_layer(name: str) -> jax.Array:
            of_first, of_last = (getattr(report, name) for report in end_reports)
            of_stack = getattr(reports, name)
            return jnp.concatenate([of_first[None], of_stack, of_last[None]])

        steps = tuple(report.moved for report in (end_reports[0], reports, end_reports[1]))
        moved = optax.tree.sub(new.activations, start.variables.activations)
        return BlockPassResult(
            new,
            (first.fit, stack.fit, last.fit),
            Displacements(steps, moved if start.displacements.activations else ()),
            by_layer("tau") if len(start.tau) else (),
            objective,
            loss,
            Rejected(
                by_layer("rejected_kernel"), by_layer("rejected_z"), by_layer("rejected_a")[1:]
            ),
            jnp.concatenate([gaps, last_gap[None]]),
            jnp.sqrt(jnp.concatenate([jnp.sum(x**2, axis=(-2, -1)).reshape(-1) for x in steps])),
        )

    def _pass(self, shared: Shared, first: Block, stack: Block, last: Block) -> Any:
        """One pass on a device, whose share of the stack is `stack`."""
        index, top = jax.lax.axis_index(self.axis), len(self.network.names) - 1
        on_first, on_last = index == 0, index == self.devices - 1
        even, odd = (jax.tree.map(lambda x, i=i: x[i::2], stack) for i in (0, 1))
        visit_stacked = jax.vmap(functools.partial(visit_block, shared, 1))

        def below(first: Block, even: Block, odd: Block) -> tuple[jax.Array, jax.Array]:
            start = jnp.where(on_first, first.z, self._from_below(odd.z[-1]))
            return jnp.concatenate([start[None], odd.z[:-1]]), even.z

        def visit_end(mine: jax.Array, layer: int, block: Block, *neighbours: Any) -> Any:
            def stay(block: Block, *neighbours: Any) -> tuple[Block, Report]:
                del neighbours
                zero = jnp.zeros((), block.z.dtype)
                moved = jnp.zeros_like(block.kernel)
                return block, self._vary(Report(moved, zero, zero, zero, zero))

            def go(block: Block, *neighbours: Any) -> tuple[Block, Report]:
                return self._vary(visit_block(shared, layer, block, *neighbours))

            return jax.lax.cond(mine, go, stay, block, *neighbours)

        even, even_reports = visit_stacked(even, below(first, even, odd)[0], odd.a)
        last, last_report = visit_end(on_last, top, last, odd.z[-1], odd.a[-1])
        end = jnp.where(on_last, last.a, self._from_above(even.a[0]))
        odd, odd_reports = visit_stacked(odd, even.z, jnp.concatenate([even.a[1:], end[None]]))
        first, first_report = visit_end(on_first, 0, first, first.z, even.a[0])

        def in_turn(even: jax.Array, odd: jax.Array) -> jax.Array:
            return jnp.stack([even, odd], axis=1).reshape(2 * len(even), *even.shape[1:])

        stack, reports = jax.tree.map(in_turn, (even, even_reports), (odd, odd_reports))
        z_below = in_turn(*below(first, even, odd))
        values, gaps = jax.vmap(functools.partial(block_value, shared, 1))(stack, z_below)
        first_value, _ = block_value(shared, 0, first, first.z)
        last_value, last_gap = block_value(shared, top, last, odd.z[-1])
        loss = shared.examples.rows.sum(
            shared.method.loss.value(last.z, shared.examples.targets)[:, None]
        )

        def of(mine: jax.Array, tree: Any) -> Any:
            """What one device has, on every device."""
            return jax.tree.map(lambda x: jax.lax.psum(jnp.where(mine, x, 0), self.axis), tree)

        (first_end, first_slot), (last_end, last_slot) = apart(first), apart(last)
        loss = of(on_last, loss)
        objective = (
            jax.lax.psum(jnp.sum(values), self.axis)
            + of(on_first, first_value)
            + of(on_last, last_value)
            + loss
        )
        of_first = of(on_first, (first_end, first_report))
        of_last = of(on_last, (last_end, last_report))
        ends, end_reports = zip(of_first, of_last, strict=True)
        slots = jax.tree.map(lambda x: x[None], (first_slot, last_slot))
        replicated = ends, end_reports, objective, loss, of(on_last, last_gap)
        return replicated, (slots, stack, reports, gaps)

    def _from_below(self, x: jax.Array) -> jax.Array:
        """What the device of the layers below has; 0 on the first."""
        return self._passed(x, [(i, i + 1) for i in range(self.devices - 1)])

    def _from_above(self, x: jax.Array) -> jax.Array:
        """What the device of the layers above has; 0 on the last."""
        return self._passed(x, [(i + 1, i) for i in range(self.devices - 1)])

    def _passed(self, x: jax.Array, pairs: list[tuple[int, int]]) -> jax.Array:
        return jax.lax.ppermute(x, self.axis, pairs) if pairs else jnp.zeros_like(x)

    def _vary(self, tree: Any) -> Any:
        return vary(tree, frozenset({self.axis}))

    def _over_devices(
        self, function: Callable[[Any, Any], tuple[Any, Any]], replicated: Any, split: Any
    ) -> tuple[Any, Any]:
        """Calls a function on every device, of what all have and of each one's part of the rest."""
        specs = P(), P(self.axis)
        return jax.shard_map(
            lambda replicated, split: function(self._vary(replicated), split),
            mesh=on_mesh.current(self.sharding.mesh),
            in_specs=specs,
            out_specs=specs,
            axis_names={self.axis},
        )(replicated, split)


def layer_parallel(
    network: Network,
    sharding: NamedSharding,
    activations: Sequence[Activation],
) -> LayerParallel:
    """Returns the arrangement for a network, if there is one.

    Raises:
      ValueError: the layers are not a first one, an equal and even number of stacked ones for each
        device, and a last one; or their activations differ.
    """
    found = LayerParallel(network, sharding)
    places = network.kernels
    inner = {place.leaf for place in places[1:-1] if place.index is not None}
    alone = [places[end].index is None for end in (0, -1)]
    stacked = len(inner) == 1 and all(place.index is not None for place in places[1:-1])
    if not (stacked and all(alone)):
        raise ValueError(
            f"params has the layers {list(network.names)}; layer_sharding needs a first layer, one"
            " stack of equal layers (kernel of shape (layers, width, width)) and a last layer."
        )
    count, devices = len(places) - 2, found.devices
    if count % (2 * devices):
        raise ValueError(
            f"params has {count} stacked layers, and layer_sharding spreads them over {devices}"
            f" devices: allowed are multiples of {2 * devices}, an even number for each device."
        )
    if len(set(activations)) > 1:
        raise ValueError(
            "activation differs from layer to layer"
            f" ({', '.join(dict.fromkeys(one.name for one in activations))}); with layer_sharding,"
            " allowed is one for all."
        )
    return found
