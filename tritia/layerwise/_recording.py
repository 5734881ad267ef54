"""Evaluates a traced loss and records what its parameters are multiplied by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from tritia.layerwise import _propagation as propagation
from tritia.layerwise._matrices import MatrixAxes
from tritia.layerwise._origins import Origin, Origins
from tritia.layerwise._propagation import CALLS, CUSTOM_DERIVATIVES, REMAT, Report, body_of
from tritia.layerwise._uses import convolution_use, product_use
from tritia.layerwise._views import Constant, Kind, NotUnderstoodError, Part, View, leaves_of


class Record(NamedTuple):
    """A use of a parameter: products of one input with all of it, or with slices of it.

    Attributes:
      leaf: its position among the leaves of params.
      axes: which of its axes are summed over.
      use: what it is multiplied by.
      slices: for each product the parts of the axes that are not there whole.
      origin: where what it is multiplied by comes from.
      settings: of the product. Two products of the same origin and settings have the same inputs.
    """

    leaf: int
    axes: MatrixAxes
    use: Any
    slices: tuple[tuple[Part, ...], ...]
    origin: Origin
    settings: Any

    @property
    def inputs(self) -> Any:
        """What is equal for products of the same inputs."""
        return self.origin.made, self.settings


class Trace(NamedTuple):
    """Where in a trace a program is evaluated.

    Attributes:
      origins: of all values of the trace.
      report: called with the parameters whose use is not understood.
      levels: the number of loops that the program lies in.
    """

    origins: Origins
    report: Report
    levels: int = 0


def evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    values: Sequence[Any],
    kinds: Sequence[Kind],
    come_from: Sequence[Origin],
    trace: Trace,
) -> tuple[list[Any], list[Record]]:
    """Evaluates a jaxpr as `jax.core.eval_jaxpr` does, and records products with parameters.

    Args:
      jaxpr: the jaxpr, open or closed.
      consts: its constants.
      values: its arguments.
      kinds: what these are.
      come_from: where these come from.
      trace: where it is evaluated.

    Returns:
      The results, and the uses.
    """
    inner, _ = body_of(jaxpr)
    env = dict(zip(inner.constvars, consts, strict=True))
    env.update(zip(inner.invars, values, strict=True))
    known: dict[Any, Kind] = dict.fromkeys(inner.constvars, Constant())
    known.update(zip(inner.invars, kinds, strict=True))
    sources = dict(zip(inner.constvars, map(trace.origins.constant, consts), strict=True))
    sources.update(zip(inner.invars, come_from, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else env[variable]

    def origin_of(variable: Any) -> Origin:
        literal = isinstance(variable, Literal)
        return trace.origins.literal(variable) if literal else sources[variable]

    records: dict[Any, Record] = {}
    for eqn in inner.eqns:
        operands = list(map(read, eqn.invars))
        kinds = propagation.read_kinds(known, eqn.invars)
        origin = list(map(origin_of, eqn.invars))
        name = eqn.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            results = _bind(eqn, operands)
            _add(records, _records(eqn, operands, kinds, origin, trace.report))
        elif any(isinstance(kind, View) for kind in kinds) and (
            propagation.called_by(eqn) is not None or name == "scan"
        ):
            results, more = _evaluate_call(eqn, operands, kinds, origin, trace)
            _add(records, more)
        else:
            results = _bind(eqn, operands)
        env.update(zip(eqn.outvars, results, strict=True))
        after = propagation.kinds_after(eqn, kinds, trace.report)
        known.update(zip(eqn.outvars, after, strict=True))
        made = trace.origins.after(eqn, origin, trace.levels)
        sources.update(zip(eqn.outvars, made, strict=True))
    return list(map(read, inner.outvars)), list(records.values())


def _add(records: dict[Any, Record], more: Sequence[Record]) -> None:
    """Adds records; queries, keys and values are three products of one input."""
    for record in more:
        key = (record.leaf, record.axes, record.inputs)
        slices = (*records.get(key, record).slices, *record.slices)
        records[key] = records.get(key, record)._replace(slices=tuple(dict.fromkeys(slices)))


def _bind(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *operands, **params)
    return results if eqn.primitive.multiple_results else [results]


def _evaluate_call(
    eqn: Any,
    operands: Sequence[Any],
    kinds: Sequence[Kind],
    come_from: Sequence[Origin],
    trace: Trace,
) -> tuple[Sequence[Any], list[Record]]:
    name = eqn.primitive.name
    if name == "scan":
        return _evaluate_scan(eqn, operands, kinds, come_from, trace)
    called = propagation.called_by(eqn)
    _, consts = body_of(called)
    if name in CALLS:
        return evaluate(called, consts, operands, kinds, come_from, trace)
    found: list[Record] = []

    def recorded(*values: Any) -> Any:
        results, records = evaluate(called, consts, values, kinds, come_from, trace)
        found[:] = records
        return results, [record.use for record in records]

    if name in REMAT:
        rematerialised = jax.checkpoint(
            recorded, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"]
        )
        results, uses = rematerialised(*operands)
    else:
        assert name in CUSTOM_DERIVATIVES
        # The call itself has the derivative. What is recorded is computed beside it, and the
        # compiler sees that it is the same.
        results = _bind(eqn, operands)
        _, uses = recorded(*map(jax.lax.stop_gradient, operands))
    return results, [r._replace(use=use) for r, use in zip(found, uses, strict=True)]


def _evaluate_scan(
    eqn: Any,
    operands: Sequence[Any],
    kinds: Sequence[Kind],
    come_from: Sequence[Origin],
    trace: Trace,
) -> tuple[Sequence[Any], list[Record]]:
    consts, carried = propagation.scan_parts(eqn)
    inside = propagation.kinds_in_scan(eqn, kinds, trace.report)
    within = trace.origins.in_scan(eqn, come_from, trace.levels)
    deeper = trace._replace(levels=trace.levels + 1)
    body = eqn.params["jaxpr"]
    _, body_consts = body_of(body)
    found: list[Record] = []

    def step(carry: Any, slices: Any) -> Any:
        values = (*operands[:consts], *carry, *slices)
        results, records = evaluate(body, body_consts, values, inside, within, deeper)
        found[:] = records
        return results[:carried], (results[carried:], [record.use for record in records])

    carry, (stacked, uses) = jax.lax.scan(
        step,
        list(operands[consts : consts + carried]),
        list(operands[consts + carried :]),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    records = [r._replace(use=use) for r, use in zip(found, uses, strict=True)]
    return [*carry, *stacked], records


def _records(
    eqn: Any,
    operands: Sequence[Any],
    kinds: Sequence[Kind],
    come_from: Sequence[Origin],
    report: Report,
) -> list[Record]:
    """Returns what a product records."""
    if propagation.is_penalty(kinds):
        return []
    left, right = kinds
    records = []

    def add(view: View, origin: Origin, settings: Any, make: Any) -> None:
        try:
            axes, use = make()
        except NotUnderstoodError as error:
            propagation.report_if_matrix(report, view, str(error))
        else:
            same = (view.levels, settings)
            records.append(Record(view.leaf, axes, use, (view.parts,), origin, same))

    if eqn.primitive.name == "conv_general_dilated":
        if isinstance(right, View):
            shape = eqn.invars[1].aval.shape
            add(
                right,
                come_from[0],
                (shape, str(eqn.params)),
                lambda: convolution_use(right, operands[0], shape, eqn.params),
            )
        elif leaves_of(left):
            propagation.report_if_matrix(report, left, "it is what a convolution is applied to")
        return records
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    sides = (
        (left, (left_sum, left_batch), (right_sum, right_batch), 1),
        (right, (right_sum, right_batch), (left_sum, left_batch), 0),
    )
    for view, ours, theirs, other in sides:
        if isinstance(view, View) and ours[0]:  # without a sum it is a product by element
            add(
                view,
                come_from[other],
                (tuple(map(tuple, theirs)), tuple(view.axes[at] for some in ours for at in some)),
                lambda view=view, ours=ours, theirs=theirs, other=other: product_use(
                    view, operands[other], ours, theirs
                ),
            )
    return records
