"""Computes as an accelerator that rounds the operands of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core


def bfloat16(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16).astype(x.dtype)


def tf32(x: jax.Array) -> jax.Array:
    """Ten bits of mantissa."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type((bits + 0x1000) & jnp.uint32(0xFFFFE000), jnp.float32)


def with_rounded_products(
    function: Callable[..., Any], rounding: Callable[[jax.Array], jax.Array]
) -> Callable[..., Any]:
    """Makes a function whose products round their operands, but those in full precision.

    Args:
      function: of pytrees of arrays.
      rounding: of float32 operands.
    """

    def rounds(equation: Any) -> bool:
        if equation.primitive.name != "dot_general":
            return False
        asked = equation.params["precision"]
        full = asked is not None and all(one == jax.lax.Precision.HIGHEST for one in asked)
        return not full

    def run(program: Any, constants: Any, *inputs: Any) -> list[Any]:
        known = dict(zip((*program.constvars, *program.invars), (*constants, *inputs), strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, core.Literal) else known[variable]

        for equation in program.eqns:
            values = [read(variable) for variable in equation.invars]
            name, params = equation.primitive.name, equation.params
            closed = next((params[k] for k in ("jaxpr", "call_jaxpr", "call") if k in params), None)
            if name == "cond":
                branch = params["branches"][int(values[0])]
                results = run(branch.jaxpr, branch.consts, *values[1:])
            elif name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"):
                results = run(closed.jaxpr, closed.consts, *values)
            else:
                if rounds(equation):
                    values = list(map(rounding, values))
                results = equation.primitive.bind(*values, **params)
                results = results if equation.primitive.multiple_results else [results]
            known.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in program.outvars]

    def rounded(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = run(closed.jaxpr, closed.consts, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rounded
