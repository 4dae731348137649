"""Reads activations inside an unmodified model, by name."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.base import CALLS, Program, Reading, evaluate, trace
from jaxcompress.interpreters.lift import lift
from jaxcompress.paths import did_you_mean, flatten

INPUT = ":input"


def taps(apply: Callable[..., Any], names: Iterable[str]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Makes ``apply(params, *args)`` return ``(outputs, {name: activation})``, with gradients through both.

    A name is that of a scope, for what the scope gives: every module of Linen is one (``block1``, ``block1/conv2``),
    and whatever a model computes under `jax.named_scope`. Elsewhere, as in NNX, it is the path of a layer with
    parameters of its own (``blocks/0/conv1``), for what the layer gives: the result of the last operation with one of
    them. ``:input`` behind a name stands for what the scope or the layer is given, so that ``fc1:input`` lies behind
    the activation function, the pooling or the sum in front of ``fc1``. The class name that Linen puts before all names
    is left out, and so are the collections (``params``).

    Compressed leaves are lifted (`jaxcompress.lift`). What is inside loops, branches and rematerialised blocks cannot
    be read. Raises ValueError for a name that is not in the model, with those that are; for one that does not stand
    for one array, since the module runs twice, say; and for the input of a layer without a scope that does not begin
    with a product or a convolution.
    """
    names = tuple(names)

    @functools.wraps(apply)
    def tapped(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, jax.Array]]:
        traced = trace(apply, args, kwargs)
        flat = jax.make_jaxpr(lambda *values: evaluate(_INLINED, traced.closed, values))(*traced.values)
        model = _Model.of(traced._replace(closed=flat), list(flatten(args[0])))
        found = {name: model.find(name) for name in names}
        program = flat.jaxpr.replace(outvars=[*flat.jaxpr.outvars, *found.values()])
        values = eval_jaxpr(program, flat.consts, *traced.values)
        outputs = len(values) - len(names)
        taken = dict(zip(names, values[outputs:], strict=True))
        return jax.tree.unflatten(traced.outputs, values[:outputs]), taken

    return lift(tapped)


def _enter(equation: core.JaxprEqn, values: Sequence[Any]) -> list[Any] | None:
    """Writes a call out in place, in the scope that it stands in."""
    if equation.primitive not in (prim.jit_p, prim.closed_call_p):
        return None
    scope = str(equation.source_info.name_stack)
    with jax.named_scope(scope) if scope else contextlib.nullcontext():
        return CALLS[equation.primitive](_INLINED, equation.params, list(values))


_INLINED = Reading(
    rules={},
    concerns=lambda values: True,
    lower=lambda value: value,
    stacked=lambda value: value,
    calls={},
    otherwise=_enter,
)


class _Model(NamedTuple):
    """Holds a program without calls, and what each of its values comes from.

    `activations` are the floating-point values that depend on anything but the parameters; `owners` tells from which
    parameters, by path, the others come.
    """

    equations: list[core.JaxprEqn]
    scopes: list[tuple[str, ...]]
    outputs: list[Any]
    activations: set[core.Var]
    owners: dict[core.Var, frozenset[str]]
    paths: list[str]

    @classmethod
    def of(cls, program: Program, paths: list[str]) -> "_Model":
        """Follows the values of a program whose first arguments are the parameters at `paths`."""
        jaxpr = program.closed.jaxpr
        collections = any(path.startswith("params/") for path in paths)
        inside = [path.partition("/")[2] if collections else path for path in paths]
        owners = {var: frozenset([path]) for var, path in zip(jaxpr.invars, inside, strict=False)}
        owners |= dict.fromkeys(jaxpr.constvars, frozenset())
        for equation in jaxpr.eqns:
            variables = [v for v in equation.invars if not isinstance(v, core.Literal)]
            if all(v in owners for v in variables):
                owners |= dict.fromkeys(equation.outvars, frozenset().union(*(owners[v] for v in variables)))
        every = [*jaxpr.invars, *(var for equation in jaxpr.eqns for var in equation.outvars)]
        activations = {v for v in every if v not in owners and jnp.issubdtype(v.aval.dtype, jnp.floating)}  # pyright: ignore
        scopes = [_parts(str(equation.source_info.name_stack)) for equation in jaxpr.eqns]
        return cls(jaxpr.eqns, scopes, jaxpr.outvars, activations, owners, inside)

    def find(self, name: str) -> core.Var:
        """Returns the value that a name stands for."""
        place, parts = name.removesuffix(INPUT), _parts(name.removesuffix(INPUT))
        inside = [equation for equation, scope in zip(self.equations, self.scopes, strict=True) if _lies(scope, parts)]
        if inside:
            found = self._given_to(inside) if name.endswith(INPUT) else self._given_by(inside)
        elif place in self._layers():
            found = self._of_layer(place, name.endswith(INPUT))
        elif any(path.startswith(f"{place}/") for path in self.paths):
            raise ValueError(
                f"tap {name!r} is a group of layers without a scope of its own; name a layer in it, the {INPUT!r} of "
                "the layer behind it, or let the model compute it under jax.named_scope"
            )
        else:
            known = self._known()
            raise ValueError(f"there is no tap {name!r}{did_you_mean(place, known)}; there are {', '.join(known)}")
        if len(found) != 1:
            shapes = ", ".join(str(var.aval.shape) for var in found) or "none"  # pyright: ignore (arrays have shapes)
            raise ValueError(f"tap {name!r} stands for {len(found)} arrays ({shapes}), not one; name a part of it")
        return found[0]

    def _given_to(self, inside: list[core.JaxprEqn]) -> list[core.Var]:
        made = {var for equation in inside for var in equation.outvars}
        read = dict.fromkeys(var for equation in inside for var in self._activations(equation.invars))
        return [var for var in read if var not in made]

    def _given_by(self, inside: list[core.JaxprEqn]) -> list[core.Var]:
        """Lists what a scope makes for others; what is only handed out counts if nothing else does."""
        made = dict.fromkeys(var for equation in inside for var in self._activations(equation.outvars))
        within = {id(equation) for equation in inside}
        others = {var for e in self.equations if id(e) not in within for var in self._activations(e.invars)}
        handed_out = set(self._activations(self.outputs))
        return [var for var in made if var in others] or [var for var in made if var in handed_out]

    def _of_layer(self, layer: str, given: bool) -> list[core.Var]:
        """Lists the input or the output of a layer that is known by its parameters alone."""
        meetings = [e for e in self.equations if self._owned(e, layer) and self._activations(e.invars)]
        met = [path for equation in meetings for path in self._owned(equation, layer)]
        if not met or any(equation.primitive in CALLS for equation in meetings):
            raise ValueError(f"tap {layer!r}: the layer meets no activation outside of loops, branches and remat")
        if len(set(met)) < len(met):
            times = max(map(met.count, met))
            raise ValueError(f"tap {layer!r}: the layer has no scope and a parameter of it is met {times} times")
        if not given:
            return self._activations(meetings[-1].outvars)
        if meetings[0].primitive not in (prim.dot_general_p, prim.conv_general_dilated_p):
            raise ValueError(
                f"tap {layer + INPUT!r}: the layer has no scope and begins with no product or convolution, so that "
                f"its input is not known; there is {layer!r}"
            )
        return self._activations(meetings[0].invars)

    def _owned(self, equation: core.JaxprEqn, layer: str) -> set[str]:
        """Lists the parameters of a layer that an equation meets."""
        variables = [v for v in equation.invars if not isinstance(v, core.Literal)]
        met = {path for v in variables for path in self.owners.get(v, ())}
        return {path for path in met if path.rpartition("/")[0] == layer}

    def _activations(self, variables: Iterable[Any]) -> list[core.Var]:
        return [v for v in variables if not isinstance(v, core.Literal) and v in self.activations]

    def _layers(self) -> list[str]:
        return list(dict.fromkeys(path.rpartition("/")[0] for path in self.paths if "/" in path))

    def _known(self) -> list[str]:
        """Lists the names of scopes, without a class name in front that all of them share, and of layers."""
        firsts = {scope[0] for scope in self.scopes if scope}
        shared = 1 if len(firsts) == 1 else 0
        found = {"/".join(scope[shared:end]) for scope in self.scopes for end in range(shared + 1, len(scope) + 1)}
        return sorted(found | set(self._layers()))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split("/") if part)


def _lies(scope: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Tells whether a scope lies in the one of these parts, whose name may have a class's in front."""
    return bool(parts) and (scope[: len(parts)] == parts or scope[1 : len(parts) + 1] == parts)
