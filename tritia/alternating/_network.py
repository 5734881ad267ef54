"""A pytree of dense layers, seen as a list of layers.

Layers are found by the names in the tree: every array called `kernel` belongs to a layer, with the
array called `bias` beside it if there is one. That covers nested dicts and lists, Flax Linen's
params and the `nnx.State` of an NNX module, without importing Flax. Layers are taken in the natural
order of their paths (`layers/2` before `layers/10`), or in the order that the user gives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Network(NamedTuple):
    """Where the layers of a network are in its params.

    Attributes:
      names: the path of each layer, such as "layers/0", in the order of the layers.
      kernels: the position of each layer's kernel among the leaves of params.
      biases: the position of each layer's bias, or None for a layer without one.
      sizes: (d_0, d_1, ..., d_L): the width of the inputs and of each layer's output.
    """

    names: tuple[str, ...]
    kernels: tuple[int, ...]
    biases: tuple[int | None, ...]
    sizes: tuple[int, ...]


_PARTS = ("kernel", "bias")


def find_layers(params: Any, layer_order: Sequence[str] | None = None, *, solver: str) -> Network:
    """Finds the dense layers in `params` and checks that each fits the next.

    Args:
      params: a pytree whose leaves are kernels (d, k) and biases (k,), called `kernel` and `bias`.
      layer_order: the paths of all layers, first layer first, such as ("encoder", "decoder"); None
        takes the natural order of the paths.
      solver: who asks, for the messages.

    Returns:
      A `Network`.

    Raises:
      ValueError: a leaf is not part of a dense layer, a kernel is missing or has another number of
        axes than 2, a bias doesn't fit its kernel, a layer doesn't fit the next one, or
        `layer_order` does not list every layer once.
      TypeError: a leaf is not of a real floating dtype.
    """
    found: dict[str, dict[str, int]] = {}
    leaves = jax.tree.leaves(params)
    for position, (layer, part) in enumerate(parts_of(params)):
        leaf = leaves[position]
        shape = tuple(jnp.shape(leaf))
        if part is None:
            raise ValueError(
                f"params has an array {layer!r} of shape {shape}, which is not the `kernel` or"
                f" `bias` of a dense layer; {solver} takes multilayer perceptrons only, without"
                " normalisation, convolution, embedding or attention."
            )
        if part == "kernel" and len(shape) != 2:
            kind = "that of a convolution" if len(shape) > 2 else "not that of a dense layer"
            raise ValueError(
                f"layer {layer!r} has a kernel of shape {shape}, which is {kind}; {solver} needs"
                " kernels of shape (inputs, outputs)."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"layer {layer!r} has a {part} of dtype {jnp.result_type(leaf)}; {solver} needs"
                " real floating-point params."
            )
        found.setdefault(layer, {})[part] = position
    if not found:
        raise ValueError(
            f"params has no layers: {solver} needs a pytree of dense layers, such as"
            ' {"layers": [{"kernel": (inputs, outputs), "bias": (outputs,)}, ...]}.'
        )
    names = _ordered(found, layer_order)
    sizes: list[int] = []
    for index, name in enumerate(names):
        parts = found[name]
        if "kernel" not in parts:
            raise ValueError(
                f"layer {name!r} has a bias but no kernel; {solver} needs both, or only the kernel."
            )
        kernel = tuple(jnp.shape(leaves[parts["kernel"]]))
        if "bias" in parts:
            bias = tuple(jnp.shape(leaves[parts["bias"]]))
            if bias != kernel[1:]:
                raise ValueError(
                    f"layer {name!r} has a kernel of shape {kernel} and a bias of shape {bias};"
                    f" the bias must have shape {kernel[1:]}."
                )
        if index and sizes[-1] != kernel[0]:
            before = names[index - 1]
            raise ValueError(
                f"layer {before!r} has {sizes[-1]} outputs (kernel of shape"
                f" {tuple(jnp.shape(leaves[found[before]['kernel']]))}), but layer {name!r}, which"
                f" follows it, has a kernel of shape {kernel}. Layers are taken in the order"
                f" {list(names)}; pass layer_order= to change it."
            )
        sizes += [kernel[1]] if index else list(kernel)
    return Network(
        names,
        tuple(found[name]["kernel"] for name in names),
        tuple(found[name].get("bias") for name in names),
        tuple(sizes),
    )


def parts_of(params: Any) -> list[tuple[str, str | None]]:
    """Returns, for each leaf, the path of its layer and which part of the layer it is.

    A leaf that belongs to no layer has its own path and None.
    """
    found = []
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        keys = [_key_name(key) for key in path]
        where = max((i for i, key in enumerate(keys) if key in _PARTS), default=None)
        if where is None:
            inside = keys[-1:] == ["value"]  # of an NNX variable
            found.append(("/".join(keys[:-1] if inside else keys), None))
        else:
            found.append(("/".join(keys[:where]), keys[where]))
    return found


def layers_of(
    network: Network, params: Any, dtype: Any
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array | None, ...]]:
    """Returns the kernels and the biases of `params`, first layer first, in `dtype`."""
    leaves = jax.tree.leaves(params)
    kernels = tuple(jnp.asarray(leaves[i], dtype) for i in network.kernels)
    biases = tuple(None if i is None else jnp.asarray(leaves[i], dtype) for i in network.biases)
    return kernels, biases


def like_params(
    network: Network,
    params: Any,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array | None],
) -> Any:
    """Returns a pytree with the structure of `params` that holds these kernels and biases."""
    leaves, structure = jax.tree.flatten(params)
    for positions, arrays in ((network.kernels, kernels), (network.biases, biases)):
        for position, array in zip(positions, arrays, strict=True):
            if position is not None:
                leaves[position] = array
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


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts digits as numbers, so that layer 10 follows layer 9."""
    return [
        (0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part
    ]


def _key_name(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
