"""Sees a Flax module as a multilayer perceptron: its layers in order, and their activations.

Nothing is read from the module's source. The order of the layers is that in which a trace of the
module first uses their kernels; the activations are the functions between the layers of a
Sequential, or found by trial; and what was found is checked by computing with it, on random rows
and random params, what the module computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.extend import core

from tritia.alternating import ACTIVATIONS, Activation, leaky_relu
from tritia.alternating._arguments import activation_of_each, resolve_activations
from tritia.alternating._network import Network, find_layers, layers_of, parts_of

_ROWS = 24
_TOLERANCE = 3e-5  # of the model's output against the formula, in float32
_CERTAIN = 1e-5  # no two activations are as close as this on the rows tried
_GRID = np.concatenate([-np.geomspace(1e-2, 12, 20)[::-1], [0], np.geomspace(1e-2, 12, 20)])


class Perceptron(NamedTuple):
    """What `tritia.tiam` needs to know about a module.

    Attributes:
      layer_order: the paths of the layers, first layer first.
      activations: an activation for each hidden layer.
    """

    layer_order: tuple[str, ...]
    activations: tuple[Activation, ...]


class _Function(NamedTuple):
    """A module as a function of its params.

    Attributes:
      params: arrays or shapes, a pytree.
      apply: (params, inputs) -> outputs.
    """

    params: Any
    apply: Callable[[Any, jax.Array], Any]


def find(
    model: Any,
    params: Any = None,
    activation: Any = None,
    layer_order: Sequence[str] | None = None,
    *,
    solver: str,
) -> Perceptron:
    """Finds the layers and activations of a module.

    Args:
      model: an NNX or a Linen module.
      params: the params of a Linen module.
      activation: the activations as the user gave them, as in `tritia.tiam`; None finds them.
      layer_order: the paths of the layers; None finds them.
      solver: the name of the caller, for the messages.

    Returns:
      The `Perceptron`.

    Raises:
      ValueError: the module is not a multilayer perceptron, or its activations are not found.
      TypeError: `model` is not a Flax module.
    """
    function = _function(model, params)
    _check_layers(function.params, solver)
    # Concrete numbers even where this is called inside of a trace: only shapes come from the user.
    with jax.ensure_compile_time_eval():
        if layer_order is None:
            layer_order = _call_order(function, type(model).__name__)
        network = find_layers(function.params, layer_order, solver=solver)
        hidden = len(network.names) - 1
        rows, kernels, biases, outputs = _try_out(function, network, solver)
        if activation is not None:
            given = resolve_activations(activation, invertible=False)
            choices = [list(activation_of_each(given, network))]
        else:
            written = _written_activations(model, network, solver)
            choices = [written] if written is not None else _uniform(hidden)
        errors: list[float] = []
        for choice in choices:
            errors.append(_error(choice, rows, kernels, biases, outputs))
            if errors[-1] < _CERTAIN:  # compiling all of them would take seconds
                break
    best = int(np.argmin(errors))
    if not errors[best] <= _tolerance(outputs.dtype):
        raise ValueError(_mismatch(model, network, activation, choices[best], len(choices), solver))
    return Perceptron(tuple(layer_order), tuple(choices[best]))


def _function(model: Any, params: Any) -> _Function:
    if isinstance(model, nnx.Module):
        if params is not None:
            raise ValueError("params is for Linen modules: an NNX module holds its own.")
        structure, own, rest = nnx.split(model, nnx.Param, ...)

        def apply(params: Any, x: jax.Array) -> Any:
            # Variables of this trace, which a call may change.
            return nnx.merge(structure, params, jax.tree.map(lambda leaf: leaf, rest))(x)

        return _Function(own, apply)
    if isinstance(model, linen.Module):
        if params is None:
            raise ValueError(
                "a Linen module needs its params: pass params=module.init(key, x)['params']."
            )
        return _Function(params, lambda params, x: model.apply({"params": params}, x))
    raise TypeError(f"model must be an NNX or a Linen module; got {model!r}.")


def _check_layers(params: Any, solver: str) -> None:
    """Checks each layer on its own by `find_layers`, since their order is not known yet."""
    layers: dict[str, Any] = {}
    for (name, part), leaf in zip(parts_of(params), jax.tree.leaves(params), strict=True):
        if part:
            layers.setdefault(name, {})[part] = leaf
        else:
            layers[name] = leaf
    if not layers:
        find_layers({}, solver=solver)
    for name, layer in layers.items():
        find_layers({name: layer}, solver=solver)


def _call_order(function: _Function, name: str) -> tuple[str, ...]:
    """Returns the paths of the layers in the order in which a call first uses their kernels."""
    paths, leaves = parts_of(function.params), jax.tree.leaves(function.params)
    widths = {
        leaf.shape[-2]: None
        for (_, part), leaf in zip(paths, leaves, strict=True)
        if part == "kernel"
    }
    failures = []
    for width in widths:  # it is not known yet which layer is the first
        rows = jax.ShapeDtypeStruct((_ROWS, width), jnp.float32)
        try:
            traced = jax.make_jaxpr(function.apply)(function.params, rows)
        except Exception as error:
            failures.append(f"with inputs of shape (rows, {width}): {error}")
            continue
        uses: list[int] = []
        variables = dict(zip(traced.jaxpr.invars, range(len(leaves)), strict=False))
        for position in _uses(traced.jaxpr, variables):
            if position not in uses:
                uses.append(position)
        order = [paths[i][0] for i in uses if paths[i][1] == "kernel"]
        idle = [path for path, part in paths if part == "kernel" and path not in order]
        if idle:
            raise ValueError(f"layer {idle[0]!r} of {name} is not used when the model is called.")
        return tuple(order)
    raise ValueError(f"{name} can't be called as model(inputs). {' '.join(failures)}")


def _uses(jaxpr: Any, variables: dict[Any, int]) -> Iterator[int]:
    """Yields the positions of inputs in the order in which equations use them."""
    for equation in jaxpr.eqns:
        operands = equation.invars
        inner = [
            getattr(value, "jaxpr", value)
            for value in equation.params.values()
            if isinstance(value, (core.ClosedJaxpr, core.Jaxpr))
        ]
        if len(inner) == 1 and len(inner[0].invars) == len(operands):
            yield from _uses(
                inner[0],
                {
                    within: variables[operand]
                    for within, operand in zip(inner[0].invars, operands, strict=True)
                    if not isinstance(operand, core.Literal) and operand in variables
                },
            )
            continue
        for operand in operands:
            if not isinstance(operand, core.Literal) and operand in variables:
                yield variables[operand]


def _try_out(function: _Function, network: Network, solver: str) -> tuple[Any, Any, Any, Any]:
    """Calls the module with random params on random rows of many sizes."""
    rng = np.random.default_rng(0)
    leaves, structure = jax.tree.flatten(function.params)
    values = []
    for leaf in leaves:
        fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 1
        values.append(jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan_in), leaf.dtype))
    sizes = np.geomspace(0.1, 10, _ROWS)[:, None]
    rows = jnp.asarray(rng.normal(size=(_ROWS, network.sizes[0])) * sizes, jnp.float32)
    with jax.default_matmul_precision("highest"):
        outputs = _concrete(function.apply, jax.tree.unflatten(structure, values), rows)
    shape = (_ROWS, network.sizes[-1])
    if not isinstance(outputs, jax.Array) or outputs.shape != shape:
        got = [leaf.shape for leaf in jax.tree.leaves(outputs)]
        raise ValueError(
            f"the model returns {got} for inputs of shape {rows.shape}, but its last layer"
            f" {network.names[-1]!r} returns {shape}: {solver} needs that layer's outputs."
        )
    kernels, biases = layers_of(network, jax.tree.unflatten(structure, values), None)
    kernels = [np.asarray(kernel, np.float64) for kernel in kernels]
    biases = [0.0 if bias is None else np.asarray(bias, np.float64) for bias in biases]
    return np.asarray(rows, np.float64), kernels, biases, outputs


def _concrete(function: Callable[..., Any], *operands: Any) -> Any:
    """Calls a function of concrete arrays, for concrete results also inside of `jax.vmap`.

    There `jax.ensure_compile_time_eval` alone does not reach functions with a derivative of their
    own, such as `jax.nn.relu`; what `jax.jit` compiles is not seen by `vmap`.
    """
    return jax.jit(lambda *operands: function(*operands))(*operands)


def _error(
    activations: Sequence[Activation], rows: Any, kernels: Any, biases: Any, outputs: Any
) -> float:
    """Returns the largest difference between the formula and the module, relative to each row."""
    a = rows
    for position, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        z = a @ kernel + bias
        if position < len(activations):
            height = _concrete(activations[position].value, jnp.asarray(z, jnp.float32))
            a = np.asarray(height, np.float64)
    scale = np.max(np.abs(z), axis=1, keepdims=True)
    scale = np.where(scale > 0, scale, 1)  # a row of dead units and no bias
    return float(np.max(np.abs(np.asarray(outputs, np.float64) - z) / scale))


def _tolerance(dtype: Any) -> float:
    return max(_TOLERANCE, 8 * float(jnp.finfo(dtype).eps))


def _uniform(hidden: int) -> list[list[Activation]]:
    return [[activation] * hidden for activation in ACTIVATIONS.values()]


def _written_activations(model: Any, network: Network, solver: str) -> list[Activation] | None:
    """Returns the functions between the layers of a Sequential, or None where not known."""
    if not isinstance(model, (nnx.Sequential, linen.Sequential)):
        return None
    between: list[list[Any]] = [[]]
    for step in _steps(model):
        if isinstance(step, (nnx.Linear, linen.Dense)):
            between.append([])
        elif isinstance(step, (nnx.Module, linen.Module)):
            return None
        else:
            between[-1].append(step)
    if len(between) != len(network.names) + 1:
        return None
    for steps, where in ((between[0], "before"), (between[-1], "after")):
        layer = network.names[0 if where == "before" else -1]
        if steps and _recognise(steps) is not ACTIVATIONS["identity"]:
            raise ValueError(
                f"the model applies {_called(steps[0])} {where} layer {layer!r}:"
                + (
                    " apply it to the inputs instead, once."
                    if where == "before"
                    else f" {solver} needs that layer's outputs, and its loss applies the rest."
                )
            )
    found = []
    for layer, steps in zip(network.names, between[1:-1], strict=False):
        activation = _recognise(steps)
        if activation is None:
            raise ValueError(
                f"the function {_called(steps[0])} after layer {layer!r} is not one of the"
                f" activations that {solver} knows: {', '.join(ACTIVATIONS)}. Pass activation=,"
                " such as tritia.alternating.monotone_activation(value, inverse)."
            )
        found.append(activation)
    return found


def _steps(model: Any) -> Iterator[Any]:
    for step in model.layers:
        if isinstance(step, (nnx.Sequential, linen.Sequential)):
            yield from _steps(step)
        else:
            yield step


def _recognise(steps: Sequence[Callable[..., Any]]) -> Activation | None:
    """Returns the known activation that computes the same on a grid, or None."""
    values = jnp.asarray(_GRID, jnp.float32)[:, None]
    try:
        for step in steps:
            values = _concrete(step, values)
    except Exception:  # a function that does not take one column is not elementwise
        return None
    values = np.asarray(values, np.float64)
    if values.shape != (len(_GRID), 1):
        return None
    values = values[:, 0]
    known = list(ACTIVATIONS.values())
    slope = float(values[0] / _GRID[0])
    if 0 < slope < 1:
        known.append(leaky_relu(slope))
    for activation in known:
        height = _concrete(activation.value, jnp.asarray(_GRID, jnp.float32))
        expected = np.asarray(height, np.float64)
        if np.allclose(values, expected, rtol=1e-5, atol=1e-5):
            return activation
    return None


def _called(function: Any) -> str:
    name = getattr(function, "__name__", None)
    if name is None and hasattr(function, "func"):
        name = getattr(function.func, "__name__", None)
    if name == "<lambda>":
        return "a lambda"
    return name or repr(function)


def _mismatch(
    model: Any, network: Network, asked: Any, best: Sequence[Activation], tried: int, solver: str
) -> str:
    words = f"{type(model).__name__} does not compute a plain multilayer perceptron with the layers"
    words += f" {list(network.names)} in this order and "
    if asked is None and tried > 1:
        words += f"one of the activations {', '.join(ACTIVATIONS)} between all of them"
    else:
        words += f"the activations {[activation.name for activation in best]}"
    dropout = [
        "/".join(map(str, path))
        for path, module in (nnx.iter_modules(model) if isinstance(model, nnx.Module) else ())
        if isinstance(module, nnx.Dropout) and module.rate > 0 and not module.deterministic
    ]
    if dropout:
        words += (
            f". It has dropout ({dropout[0]!r}), which {solver} can't train: build the model"
            " without it"
        )
    elif asked is None:
        words += (
            ". If the layers have other activations, pass activation= (one for each hidden layer);"
            " a residual connection, a softmax at the end or anything else between the layers"
            f" can't be trained by {solver}"
        )
    return words + "."
