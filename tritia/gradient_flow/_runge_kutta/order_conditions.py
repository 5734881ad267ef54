"""Order conditions of Runge-Kutta methods, generated from rooted trees.

A method of s stages has order p when, for every rooted tree with at most p nodes, its *elementary
weight* equals 1 over the tree's *density* (Butcher 1963). The trees are generated rather than
listed, and with `fractions.Fraction` coefficients every number here is exact.

A tree is the sorted tuple of its root's subtrees: `()` is a single node, `((),)` two nodes in a
line, `((), ())` a root with two leaves.

References:
  Hairer, Nørsett, Wanner, `Solving Ordinary Differential Equations I
  <https://doi.org/10.1007/978-3-540-78862-1>`_, section II.2, 1993
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from tritia.gradient_flow._coefficient import Coefficient

RootedTree = tuple["RootedTree", ...]


def tree_order(tree: RootedTree) -> int:
    """Returns the number of nodes of a rooted tree."""
    return 1 + sum(map(tree_order, tree))


@functools.cache
def rooted_trees(order: int) -> tuple[RootedTree, ...]:
    """Returns all rooted trees with `order` nodes: 1, 1, 2, 4, 9, 20, 48 ... of them."""
    return _forests(order - 1, order - 1)


@functools.cache
def _forests(nodes: int, largest: int) -> tuple[RootedTree, ...]:
    """Returns all multisets of trees with `nodes` nodes together and at most `largest` in each."""
    if nodes == 0:
        return ((),)
    found = set()
    for size in range(1, min(nodes, largest) + 1):
        for tree in rooted_trees(size):
            for rest in _forests(nodes - size, size):
                found.add(tuple(sorted((tree, *rest))))
    return tuple(sorted(found))


def density(tree: RootedTree) -> int:
    """Returns the density: the number of nodes times the densities of the root's subtrees."""
    return tree_order(tree) * math.prod(map(density, tree))


def symmetry(tree: RootedTree) -> int:
    """Returns the order of the tree's symmetry group."""
    return math.prod(
        math.factorial(times) * symmetry(subtree) ** times
        for subtree, times in Counter(tree).items()
    )


def _stage_weights(tree: RootedTree, a: Sequence[Sequence[Coefficient]]) -> list[Coefficient]:
    """Returns, for each stage, the elementary weight of the tree seen from that stage."""
    weights: list[Coefficient] = [Fraction(1)] * len(a)
    for subtree in tree:
        below = _stage_weights(subtree, a)
        for i, row in enumerate(a):
            # An explicit method: row i holds the coefficients of the stages before i alone.
            weights[i] *= sum((x * y for x, y in zip(row, below, strict=False)), Fraction(0))
    return weights


def elementary_weight(
    tree: RootedTree, a: Sequence[Sequence[Coefficient]], b: Sequence[Coefficient]
) -> Coefficient:
    """Returns the elementary weight of a tree: what the method makes of its differential."""
    return sum((x * y for x, y in zip(b, _stage_weights(tree, a), strict=True)), Fraction(0))


def order_defect(
    tree: RootedTree, a: Sequence[Sequence[Coefficient]], b: Sequence[Coefficient]
) -> Coefficient:
    """Returns by how much the tree's order condition is missed (0 when it holds)."""
    return elementary_weight(tree, a, b) - Fraction(1, density(tree))


def condition(tree: RootedTree) -> str:
    """Writes the tree's order condition as a formula, for messages.

    >>> condition(((), ()))
    'sum_i b_i c_i^2 = 1/3'
    >>> condition((((),),))
    'sum_i b_i (sum_j a_ij c_j) = 1/6'
    """
    factors = _factors(tree, "ijklmnopqr")
    return f"sum_i b_i{' ' + factors if factors else ''} = {Fraction(1, density(tree))}"


def _factors(tree: RootedTree, names: str) -> str:
    """Writes the product that a tree contributes at the stage called names[0]."""
    here, below = names[0], names[1]
    leaves = sum(1 for subtree in tree if not subtree)
    factors = [f"c_{here}" + (f"^{leaves}" if leaves > 1 else "")] if leaves else []
    for subtree in tree:
        if subtree:
            factors.append(f"(sum_{below} a_{here}{below} {_factors(subtree, names[1:])})")
    return " ".join(factors)
