"""What each value in a traced loss is: a parameter rearranged, made of parameters, or data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.extend.core import Literal

from tritia.layerwise import _views as views
from tritia.layerwise._views import Constant, Data, Kind, NotUnderstoodError, View

UNCHANGED = {
    "convert_element_type",
    "copy",
    "copy_p",
    "mesh_cast",
    "name",
    "neg",
    "pvary",
    "reduce_precision",
    "reshard",
    "sharding_constraint",
    "stop_gradient",
}
"""Primitives of one operand whose result has the inputs of the operand, up to a factor."""

CALLS = {
    "call": "call_jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
}
"""Calls that may be replaced by what they call, and where they have it."""

REMAT = {"checkpoint", "remat", "remat2"}
CUSTOM_DERIVATIVES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
SUMS = {"add", "add_any", "sub"}

SILENT_PRODUCTS = {
    "custom_call",
    "fft",
    "ffi_call",
    "pallas_call",
    "ragged_dot",
    "ragged_dot_general",
}
"""What may multiply by a parameter in a way that can't be seen here."""

Report = Callable[[int, str], None]
"""Called with the position of each parameter whose use is not understood, and why."""

CHANGED = "it is changed before it is multiplied by data"
MIXED = "it is combined with data before it is multiplied by data"


def body_of(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """Returns a jaxpr without its constants, and these."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def called_by(eqn: Any) -> Any:
    """Returns the jaxpr that a call with one jaxpr calls, or None."""
    name = eqn.primitive.name
    if name in CALLS:
        return eqn.params[CALLS[name]]
    if name in REMAT:
        return eqn.params["jaxpr"]
    if name in CUSTOM_DERIVATIVES:
        return eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return None


def propagate(jaxpr: Any, kinds: Sequence[Kind], report: Report) -> list[Kind]:
    """Returns the kinds of a jaxpr's results, given those of its arguments."""
    inner, _ = body_of(jaxpr)
    known: dict[Any, Kind] = dict.fromkeys(inner.constvars, Constant())
    known.update(zip(inner.invars, kinds, strict=True))
    for eqn in inner.eqns:
        results = kinds_after(eqn, read_kinds(known, eqn.invars), report)
        known.update(zip(eqn.outvars, results, strict=True))
    return read_kinds(known, inner.outvars)


def read_kinds(known: dict[Any, Kind], variables: Sequence[Any]) -> list[Kind]:
    """Returns the kinds of variables and literals."""
    return [Constant() if isinstance(v, Literal) else known[v] for v in variables]


def kinds_after(eqn: Any, kinds: Sequence[Kind], report: Report) -> list[Kind]:
    """Returns the kinds of an equation's results, and reports what is not understood."""
    name = eqn.primitive.name
    called = called_by(eqn)
    if called is not None:
        return propagate(called, kinds, report)
    if name == "scan":
        return _after_scan(eqn, kinds, report)
    shapes = [result.aval.shape for result in eqn.outvars]
    if name == "dot_general":
        return [_after_product(eqn, kinds, report)]
    if name == "conv_general_dilated":
        return [_after_convolution(eqn, kinds, report)]
    if name in SILENT_PRODUCTS or any(map(_has_equations, eqn.params.values())):
        for kind in kinds:
            leaves, form = views.within(kind)
            if not isinstance(kind, Data) or (name != "fft" and not views.is_broadcast(form)):
                report_leaves(report, leaves, f"it goes into {name}, which is not looked into")
        return [
            Data() if any(map(views.leaves_of, kinds)) else views.combined(kinds, shape)
            for shape in shapes
        ]
    return [_moved(eqn, kinds, i) or _made(eqn, kinds, i) for i in range(len(shapes))]


def report_leaves(report: Report, leaves: Iterable[int], reason: str) -> None:
    """Reports parameters with two axes or more."""
    for leaf in leaves:
        report(leaf, reason)


def report_if_matrix(report: Report, kind: Kind, reason: str) -> None:
    """Reports a kind where it stands for parameters with two axes or more."""
    report_leaves(report, views.leaves_of(kind), reason)


def is_penalty(kinds: Sequence[Kind]) -> bool:
    """Whether a product is one of a parameter with itself."""
    one, other = kinds
    return isinstance(one, View) and isinstance(other, View) and one.leaf == other.leaf


def _is_view(kind: Kind) -> bool:
    return isinstance(kind, View)


def _has_equations(value: Any) -> bool:
    values = value if isinstance(value, tuple | list) else (value,)
    return any(hasattr(one, "eqns") or hasattr(one, "jaxpr") for one in values)


def _after_product(eqn: Any, kinds: Sequence[Kind], report: Report) -> Kind:
    shape = eqn.outvars[0].aval.shape
    if is_penalty(kinds):
        return views.combined(kinds, shape)
    if any(map(_is_view, kinds)):
        return Data()  # it is recorded: what comes out is an activation
    if not any(isinstance(kind, Data) for kind in kinds):
        return views.combined(kinds, shape)
    summed, batch = eqn.params["dimension_numbers"]
    for kind, *dims in zip(kinds, summed, batch, strict=True):
        leaves, form = views.within(kind)
        if not isinstance(kind, Data):
            report_leaves(report, leaves, CHANGED)
        elif views.is_kernel(form, *dims):
            report_leaves(report, leaves, MIXED)
    return Data()


def _after_convolution(eqn: Any, kinds: Sequence[Kind], report: Report) -> Kind:
    inputs, kernel = kinds
    if _is_view(kernel):
        return Data()
    if isinstance(inputs, Data) or isinstance(kernel, Data):
        report_if_matrix(report, inputs, CHANGED)
        reason = MIXED if isinstance(kernel, Data) else CHANGED
        report_leaves(report, views.within(kernel)[0], reason)
        return Data()
    return views.combined(kinds, eqn.outvars[0].aval.shape)


def _moved(eqn: Any, kinds: Sequence[Kind], result: int) -> View | None:
    """Returns the view that a result of an equation is; None where it is none."""
    name = eqn.primitive.name
    if name in ("mul", "div") and _is_view(kinds[0]) != _is_view(kinds[1]):
        side = 0 if _is_view(kinds[0]) else 1
        view, factor = kinds[side], kinds[1 - side]
        scalar = eqn.invars[1 - side].aval.shape == () and (name == "mul" or side == 0)
        own = isinstance(view, View) and view.leaf in views.leaves_of(factor)
        return view if isinstance(view, View) and scalar and not own else None
    view, *others = kinds or [Constant()]
    if not isinstance(view, View) or any(not isinstance(other, Constant) for other in others):
        return None
    return view if name in UNCHANGED else _rearranged(eqn, view, result)


def _rearranged(eqn: Any, view: View, result: int) -> View | None:
    """Returns what an equation that moves the axes of its first operand makes of a view."""
    name, params = eqn.primitive.name, eqn.params
    shape = eqn.outvars[result].aval.shape
    try:
        if name == "transpose":
            return views.transposed(view, params["permutation"])
        if name == "squeeze":
            return views.squeezed(view, params["dimensions"])
        if name == "reshape" and params.get("dimensions") is None:
            return views.reshaped(view, shape)
        if name == "broadcast_in_dim":
            return views.broadcast(view, shape, params["broadcast_dimensions"])
        if name in ("slice", "dynamic_slice", "split"):
            return views.sliced(view, shape, _kept(eqn, result))
        if name == "unstack":
            one = [*shape]
            one.insert(params["axis"], 1)
            return views.squeezed(views.sliced(view, one, _kept(eqn, result)), [params["axis"]])
    except NotUnderstoodError:
        return None
    return None


def _kept(eqn: Any, result: int) -> list[slice | None]:
    """Returns what a result of a slice has of each axis, None where it is not known."""
    name, params = eqn.primitive.name, eqn.params
    ndim = len(eqn.invars[0].aval.shape)
    if name == "dynamic_slice":
        sizes = zip(eqn.invars[0].aval.shape, params["slice_sizes"], strict=True)
        return [_literal_slice(start, *of) for start, of in zip(eqn.invars[1:], sizes, strict=True)]
    if name == "slice":
        strides = params["strides"] or [1] * ndim
        return list(map(slice, params["start_indices"], params["limit_indices"], strides))
    start, size = result, 1
    if name == "split":
        sizes = list(map(int, params["sizes"]))
        start, size = sum(sizes[:result]), sizes[result]
    some = slice(start, start + size)
    return [some if axis == params["axis"] else slice(None) for axis in range(ndim)]


def _literal_slice(start: Any, length: int, size: int) -> slice | None:
    if not isinstance(start, Literal):
        return None
    first = min(max(int(start.val), 0), length - size)
    return slice(first, first + size)


def _made(eqn: Any, kinds: Sequence[Kind], result: int) -> Kind:
    """Returns the kind of a result that is no view."""
    name, params = eqn.primitive.name, eqn.params
    shape = eqn.outvars[result].aval.shape
    shapes = [variable.aval.shape for variable in eqn.invars]
    if all(views.spreads_to(own, shape) for own in shapes):
        return views.by_element(kinds, shapes, shape, sums=name in SUMS)
    first, *others = kinds
    leaves, form = views.within(first)
    by_data = any(isinstance(other, Data) for other in others)
    if form is None or (by_data and name not in ("gather", "dynamic_slice")):
        return views.combined(kinds, shape)
    if name == "gather" and by_data:
        # A row, as of an embedding, is no kernel: it has one axis of the parameter.
        numbers = params["dimension_numbers"]
        gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        kept = [i for i in range(len(shapes[0])) if i not in gone]
        return Data(leaves, views.taken(form, kept, len(shape), numbers.offset_dims))
    if name == "dynamic_slice" and by_data:
        kept = [i for i, size in enumerate(shape) if size > 1 or shapes[0][i] == 1]
        return Data(leaves, views.taken(form, kept, len(shape), kept))
    moved = _rearranged(eqn, form, result)
    if moved is None and name.startswith("reduce_") and len(shapes) == 1 and "axes" in params:
        moved = views.squeezed(form, params["axes"])
    return views.combined(kinds, shape) if moved is None else views.with_form(first, moved)


def scan_parts(eqn: Any) -> tuple[int, int]:
    """Returns how many operands of a scan are constants, and how many are carried."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].update(list(eqn.invars)).unpack()
    return len(list(consts)), len(list(carry))


def kinds_in_scan(eqn: Any, kinds: Sequence[Kind], report: Report) -> list[Kind]:
    """Returns the kinds of the arguments of a scan's body."""
    body, _ = body_of(eqn.params["jaxpr"])
    consts, carried = scan_parts(eqn)

    shapes = [variable.aval.shape for variable in body.invars]

    def enter(i: int, kind: Kind) -> Kind:
        _, form = views.within(kind)
        view = kind if isinstance(kind, View) else form
        if view is None:
            return kind
        try:
            inner = views.entered(view, None if i < consts + carried else 0)
        except NotUnderstoodError:
            return views.combined([kind], shapes[i])
        return inner if isinstance(kind, View) else views.with_form(kind, inner)

    inside = [enter(i, kind) for i, kind in enumerate(kinds)]
    # What is carried unchanged stays what it is; the rest may become what a pass makes of it.
    changed = [i for i in range(carried) if body.outvars[i] is not body.invars[consts + i]]
    for i in changed:
        inside[consts + i] = views.combined([inside[consts + i]], shapes[consts + i])
    while True:
        after = propagate(eqn.params["jaxpr"], inside, lambda leaf, reason: None)
        joined = list(inside)
        for i in changed:
            both = [inside[consts + i], after[i]]
            joined[consts + i] = views.combined(both, shapes[consts + i])
        if joined == inside:
            return inside
        inside = joined


def _after_scan(eqn: Any, kinds: Sequence[Kind], report: Report) -> list[Kind]:
    inside = kinds_in_scan(eqn, kinds, report)
    after = propagate(eqn.params["jaxpr"], inside, report)
    consts, carried = scan_parts(eqn)
    results = []
    for i, kind in enumerate(after):
        if i < carried and isinstance(inside[consts + i], View):
            results.append(kinds[consts + i])
        else:
            results.append(views.combined([kind], eqn.outvars[i].aval.shape))
    return results
