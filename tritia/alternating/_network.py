"""A pytree of dense layers, seen as a list of layers.

Layers are found by the names in the tree: every array called `kernel` belongs to a layer, with the
array called `bias` beside it if there is one. That covers nested dicts and lists, Flax Linen's
params and the `nnx.State` of an NNX module, without importing Flax. Layers are taken in the natural
order of their paths (`layers/2` before `layers/10`), or in the order that the user gives.

A kernel of three axes is that of equal layers stacked along the first, as `nnx.vmap` and `nnx.scan`
make them; its bias has two.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._names import key_name, leaf_names


class Place(NamedTuple):
    """Where a layer's kernel or bias is in params.

    Attributes:
      leaf: its position among the leaves.
      index: its place along the first axis of a leaf of stacked layers; None for a leaf of its own.
    """

    leaf: int
    index: int | None = None


class Network(NamedTuple):
    """Where the layers of a network are in its params.

    Attributes:
      names: the path of each layer, such as "layers/0", in the order of the layers; of a stacked
        one with its index, such as "layers[0]".
      kernels: the place of each layer's kernel.
      biases: the place of each layer's bias, or None for a layer without one.
      sizes: (d_0, d_1, ..., d_L): the width of the inputs and of each layer's output.
    """

    names: tuple[str, ...]
    kernels: tuple[Place, ...]
    biases: tuple[Place | None, ...]
    sizes: tuple[int, ...]

    @property
    def kernel_leaves(self) -> tuple[int, ...]:
        """The positions of the leaves that hold kernels, each once."""
        return tuple(dict.fromkeys(place.leaf for place in self.kernels))


_PARTS = ("kernel", "bias")


def find_layers(
    params: Any,
    layer_order: Sequence[str] | None = None,
    *,
    solver: str,
    whole: bool = True,
) -> Network:
    """Finds the dense layers in `params` and checks that each fits the next.

    Args:
      params: a pytree whose leaves are kernels (d, k) and biases (k,), or (m, d, d) and (m, d) of m
        equal layers, called `kernel` and `bias`.
      layer_order: the paths of all layers, first layer first, such as ("encoder", "decoder"); None
        takes the natural order of the paths.
      solver: the name of the caller, for the messages.
      whole: whether masked params are refused.

    Returns:
      A `Network`.

    Raises:
      ValueError: a leaf is not part of a dense layer, a kernel is missing or has another number of
        axes than 2 or 3, a bias doesn't fit its kernel, a layer doesn't fit the next one, the
        order of the layers is not known, or
        `layer_order` does not list every layer once.
      TypeError: a leaf is not of a real floating dtype.
    """
    if whole:
        _refuse_masked(params, solver)
    found: dict[str, dict[str, int]] = {}
    leaves = jax.tree.leaves(params)
    for position, (layer, part) in enumerate(parts_of(params)):
        leaf = leaves[position]
        shape = tuple(jnp.shape(leaf))
        if part is None:
            raise ValueError(
                f"params has an array {layer!r} of shape {shape}, which is not the `kernel` or"
                f" `bias` of a dense layer; {solver} takes multilayer perceptrons only, without"
                f" normalisation, convolution, embedding or attention.{_naming_hint(layer)}"
            )
        if part == "kernel":
            _check_kernel(layer, shape, solver)
        _check_dtype(layer, part, leaf, solver)
        found.setdefault(layer, {})[part] = position
    if not found:
        raise ValueError(
            f"params has no layers: {solver} needs a pytree of dense layers, such as"
            ' {"layers": [{"kernel": (inputs, outputs), "bias": (outputs,)}, ...]}.'
        )
    order = _ordered(found, layer_order)
    if layer_order is None:
        _check_order_is_known({name: _kernel_shape(leaves, found[name]) for name in order})
    names: list[str] = []
    places: list[tuple[Place, Place | None]] = []
    sizes: list[int] = []
    for index, name in enumerate(order):
        parts = found[name]
        if "kernel" not in parts:
            raise ValueError(
                f"layer {name!r} has a bias but no kernel; {solver} needs both, or only the kernel."
            )
        kernel = tuple(jnp.shape(leaves[parts["kernel"]]))
        stacked, (inputs, outputs) = kernel[:-2], kernel[-2:]
        if "bias" in parts:
            bias = tuple(jnp.shape(leaves[parts["bias"]]))
            if bias != (*stacked, outputs):
                kind = " of stacked layers, or this is the kernel of a convolution" * bool(stacked)
                raise ValueError(
                    f"layer {name!r} has a kernel of shape {kernel} and a bias of shape {bias};"
                    f" the bias must have shape {(*stacked, outputs)}{kind}."
                )
        if index and sizes[-1] != inputs:
            before = order[index - 1]
            raise ValueError(
                f"layer {before!r} has {sizes[-1]} outputs (kernel of shape"
                f" {tuple(jnp.shape(leaves[found[before]['kernel']]))}), but layer {name!r}, which"
                f" follows it, has a kernel of shape {kernel}. Layers are taken in the order"
                f" {list(order)}; pass layer_order= to change it."
            )
        sizes += [] if index else [inputs]
        for part in range(stacked[0]) if stacked else [None]:
            names.append(name if part is None else f"{name}[{part}]")
            at_bias = Place(parts["bias"], part) if "bias" in parts else None
            places.append((Place(parts["kernel"], part), at_bias))
            sizes.append(outputs)
    kernels, biases = zip(*places, strict=True)
    return Network(tuple(names), kernels, biases, tuple(sizes))


def _check_kernel(layer: str, shape: tuple[int, ...], solver: str) -> None:
    """Refuses a kernel that is neither a layer's nor that of stacked layers."""
    if len(shape) == 2 or (len(shape) == 3 and shape[1] == shape[2] and shape[0]):
        return
    kind = "that of a convolution" if len(shape) > 2 else "not that of a dense layer"
    if len(shape) == 3:
        kind = "that of a convolution, or of stacked layers of which none fits the next"
    raise ValueError(
        f"layer {layer!r} has a kernel of shape {shape}, which is {kind}; {solver} needs a kernel"
        " of shape (inputs, outputs) for each layer, or (layers, width, width) for equal ones."
    )


def check_dtypes(params: Any, solver: str) -> None:
    """Refuses kernels and biases of integers, which a wrapper would take for untrained and drop.

    Raises:
      TypeError: there is one; the message names it.
    """
    for (layer, part), leaf in zip(parts_of(params), jax.tree.leaves(params), strict=True):
        if part is not None:
            _check_dtype(layer, part, leaf, solver)


def _check_dtype(layer: str, part: str, leaf: Any, solver: str) -> None:
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"layer {layer!r} has a {part} of dtype {dtype}; {solver} needs real floating-point"
            " params."
        )


def _refuse_masked(params: Any, solver: str) -> None:
    """Refuses part of a network, which is another network: optax.masked leaves out the rest."""

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    masked = [
        "/".join(map(key_name, path))
        for path, node in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_masked)
        if is_masked(node)
    ]
    if masked:
        raise ValueError(
            f"params {', '.join(map(repr, masked))} are masked: {solver} needs all layers, because"
            " the update of each depends on the others. To keep some fixed, mask the updates"
            " of tritia.stochastic_tiam after it: optax.chain(tritia.stochastic_tiam(...),"
            " optax.masked(optax.set_to_zero(), frozen))."
        )


def parts_of(params: Any) -> list[tuple[str, str | None]]:
    """Returns, for each leaf, the path of its layer and which part of the layer it is.

    A leaf that belongs to no layer has its own path and None.
    """
    found = []
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, _), name in zip(leaves, leaf_names(params), strict=True):
        keys = [key_name(key) for key in path]
        where = max((i for i, key in enumerate(keys) if key in _PARTS), default=None)
        if where is None:
            found.append((name, None))
        else:
            found.append(("/".join(keys[:where]), keys[where]))
    return found


def layers_of(
    network: Network, params: Any, dtype: Any
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array | None, ...]]:
    """Returns the kernels and the biases of `params`, first layer first, in `dtype`."""
    leaves = jax.tree.leaves(params)

    def array(place: Place) -> jax.Array:
        leaf = leaves[place.leaf]
        return jnp.asarray(leaf if place.index is None else leaf[place.index], dtype)

    kernels = tuple(map(array, network.kernels))
    biases = tuple(None if place is None else array(place) for place in network.biases)
    return kernels, biases


def like_params(
    network: Network,
    params: Any,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array | None],
) -> Any:
    """Returns a pytree with the structure of `params` that holds these kernels and biases."""
    leaves, structure = jax.tree.flatten(params)
    stacks: dict[int, list[jax.Array]] = {}
    for places, arrays in ((network.kernels, kernels), (network.biases, biases)):
        for place, array in zip(places, arrays, strict=True):
            if place is None or array is None:
                continue
            if place.index is None:
                leaves[place.leaf] = array
            else:
                stacks.setdefault(place.leaf, []).append(array)
    for leaf, arrays in stacks.items():  # in the order of the layers, which is that of the stack
        leaves[leaf] = jnp.stack(arrays)
    return jax.tree.unflatten(structure, leaves)


def _ordered(
    found: dict[str, dict[str, int]], layer_order: Sequence[str] | None
) -> tuple[str, ...]:
    natural = tuple(sorted(found, key=_natural))
    if layer_order is None:
        return natural
    paths = layer_order if isinstance(layer_order, Sequence) else [None]
    if isinstance(layer_order, str) or not all(isinstance(path, str) for path in paths):
        raise TypeError(
            f"layer_order is {layer_order!r}; it must be a sequence of the layers' paths, such as"
            f" {natural}."
        )
    if sorted(layer_order) != sorted(natural):
        raise ValueError(
            f"layer_order is {list(layer_order)}; it must list every layer once. The layers of"
            f" params are {list(natural)}."
        )
    return tuple(layer_order)


_OTHER_NAMES = {
    "w": "Haiku's `w` and `b`: pass {'kernel': w, 'bias': b} for each layer",
    "b": "Haiku's `w` and `b`: pass {'kernel': w, 'bias': b} for each layer",
    "weight": (
        "Equinox's `weight`, of shape (outputs, inputs): pass {'kernel': weight.T, 'bias': bias}"
        " for each layer"
    ),
}


def _naming_hint(path: str) -> str:
    """Says what to do with params that other libraries name in another way."""
    name = path.rsplit("/", 1)[-1]
    if name.isdigit():
        return " Arrays in tuples or lists have no names: pass {'kernel': W, 'bias': b} instead."
    return f" It looks like {_OTHER_NAMES[name]}." if name in _OTHER_NAMES else ""


def _kernel_shape(leaves: Sequence[Any], parts: dict[str, int]) -> tuple[int, ...] | None:
    return tuple(jnp.shape(leaves[parts["kernel"]]))[-2:] if "kernel" in parts else None


def _check_order_is_known(shapes: dict[str, tuple[int, ...] | None]) -> None:
    """Refuses layers that fit each other in several orders, which their names do not decide.

    Names that differ in a number only are taken in the order of the numbers.
    """
    kernels = list(shapes.values())
    if any(
        before is None or after is None or before[1] != after[0]
        for before, after in itertools.pairwise(kernels)
    ):
        return  # an error of its own
    groups: dict[str, list[str]] = {}
    for name in shapes:  # in their natural order
        groups.setdefault(re.sub(r"\d+", "0", name), []).append(name)

    def orders(width: int | None, taken: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(taken) == len(shapes):
            yield taken
        for group in groups.values():
            name = next((name for name in group if name not in taken), None)
            shape = shapes[name] if name else None
            if name and shape and width in (None, shape[0]):
                yield from orders(shape[1], (*taken, name))

    first, second = itertools.islice(itertools.chain(orders(None, ()), (None, None)), 2)
    if first and second:
        raise ValueError(
            f"the layers fit in more than one order, such as {list(first)} and {list(second)},"
            f" and their names do not say which: pass layer_order=, such as {first}."
        )


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts digits as numbers, so that layer 10 follows layer 9."""
    return [
        (0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part
    ]
