"""From a scheme's coefficients to what each stage does, with the least memory between stages.

A step is a sequence of s stages. Stage j receives the slope k_j (a pytree like the params) and
returns the *offset*: where the next stage stands, or after the last stage where the step ends, as
(point - w_t) / h. Between stages it keeps a few pytrees, the *memory*. Opaque mode runs all stages
inside one update and transparent mode one stage per update, with the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritia._trees import Tree, cast_like, linear_combination, select, zeros_like
from tritia.gradient_flow._runge_kutta.chebyshev import ChebyshevScheme
from tritia.gradient_flow._runge_kutta.stage_memory import Kept
from tritia.gradient_flow._runge_kutta.tableau import ButcherTableau

Memory = tuple[Tree, ...]


class Stages(NamedTuple):
    """What a step's stages do.

    Attributes:
      count: the number s of stages, and of gradients per step.
      slots: the number of params-shaped pytrees that must be kept between stages.
      advance: `advance(stage, slope, memory)` returns the offset and the new memory.
      rolled: whether a loop over the stages should be one program, with `stage` traced; otherwise
        each stage has a program of its own, which a Python number as `stage` makes cheaper.
    """

    count: int
    slots: int
    advance: Callable[[jax.typing.ArrayLike, Tree, Memory], tuple[Tree, Memory]]
    rolled: bool


def scheme_stages(scheme: ButcherTableau | ChebyshevScheme) -> Stages:
    """Returns the stages of a step of fixed size."""
    if isinstance(scheme, ChebyshevScheme):
        return three_term_stages(scheme.recurrence)
    return tableau_stages(scheme)


def tableau_stages(tableau: ButcherTableau) -> Stages:
    """Returns the stages of a step of fixed size, those without influence on it left out."""
    count = tableau.gradients_per_step
    rows, plan, slots = tableau.stage_memory

    # What stage j makes of (slope, *memory): its target, then each slot.
    table = np.zeros((count, 1 + slots, 1 + slots))
    for j, after in enumerate(plan):
        before = plan[j - 1] if j else Kept({}, {})
        for i, place in ((j, 0), *((i, 1 + slot) for i, slot in after.sums.items())):
            for c, slot in before.slopes.items():
                table[j, place, 1 + slot] = float(rows[i][c])
            if i in before.sums:
                table[j, place, 1 + before.sums[i]] = 1.0
            table[j, place, 0] = float(rows[i][j])
        for c, slot in after.slopes.items():
            table[j, 1 + slot, 0 if c == j else 1 + slot] = 1.0
    ever: Any = table.any(axis=0)

    def advance(stage, slope, memory):
        given = (slope, *memory)
        now: Any = table[stage].tolist() if isinstance(stage, int) else jnp.asarray(table)[stage]
        offset, *kept = (
            linear_combination(
                slope, [(now[row][n], given[n]) for n in range(len(given)) if ever[row, n]]
            )
            for row in range(len(given))
        )
        kept = tuple(cast_like(new, old) for new, old in zip(kept, memory, strict=True))
        return offset, kept if isinstance(stage, int) else _emptied(stage, count, kept)

    return Stages(count, slots, advance, rolled=False)


def _emptied(stage: jax.typing.ArrayLike, count: int, memory: Memory) -> Memory:
    """Zeros after the last stage, whatever the slopes: the next step multiplies them by 0."""
    return tuple(
        select(jnp.equal(stage, count - 1), jax.tree.map(jnp.zeros_like, slot), slot)
        for slot in memory
    )


def three_term_stages(coefficients: np.ndarray) -> Stages:
    """Returns the stages of a method given by a three-term recurrence, one program for all.

    With offsets d_0 = 0 and d_{j+1} = mu_j d_j + nu_j d_{j-1} + mu~_j k_j + gamma~_j k_0, memory
    holds d_j, d_{j-1} and, if any gamma~ differs from 0, k_0: its size does not grow with s.

    Args:
      coefficients: an array of shape (s, 4), rows (mu, nu, mu~, gamma~).
    """
    count = len(coefficients)
    keeps_first = bool(np.any(coefficients[:, 3]))

    def advance(stage, slope, memory):
        mu, nu, mu_slope, gamma_first = jnp.asarray(coefficients)[stage]
        terms = [(mu_slope, slope), (mu, memory[0]), (nu, memory[1])]
        first = memory[2:]
        if keeps_first:
            first = (select(jnp.equal(stage, 0), cast_like(slope, memory[2]), memory[2]),)
            terms.append((gamma_first, first[0]))
        offset = linear_combination(slope, terms)
        kept = (cast_like(offset, memory[0]), memory[0], *first)
        return offset, _emptied(stage, count, kept)

    return Stages(count, 3 if keeps_first else 2, advance, rolled=True)


def empty_memory(stages: Stages, params: optax.Params, dtype: Any = None) -> Memory:
    """Returns the memory between steps: zeros shaped like the params."""
    return tuple(zeros_like(params, dtype) for _ in range(stages.slots))
