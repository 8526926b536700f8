"""Functions with derivative rules of their own: custom_vjp and custom_jvp, JAX's names and conventions.

For what mingrad cannot look into: a special function of SciPy, a C library, a solver; or where a formula by hand is better than
the chain rule. The function's results stand on the tape as nodes that know their call; how the sweeps come back here is in
csrc/derive.pxi. Ordinary derivatives of functions are in mingrad.autodiff.

The function and its rules get plain floats (in the nests of the arguments) as long as nobody differentiates the derivative.
For derivatives of derivatives the rules are called with Variables, and must be made of mingrad's operations or of other custom
functions; a rule that calls SciPy then raises SciPy's or Variable's own error, and nothing is lost in silence.
"""

import functools
import inspect

from . import _core
from .autodiff import _flatten, _floats, _leaves_like, _unit_rows
from .engine import Variable, is_grad_enabled

__all__ = ["custom_jvp", "custom_vjp"]


class _Custom:
    """What both decorators share: calls of the function, and the two directions of its derivative."""

    def __init__(self, fun, nondiff_argnums=()):
        if not callable(fun):
            raise TypeError(f"{self._kind}: expected a function, got {type(fun).__name__}")
        functools.update_wrapper(self, fun)
        self._function = fun
        self._nondiff = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)
        self._name = getattr(fun, "__name__", type(fun).__name__)
        try:
            self._signature = inspect.signature(fun)
        except (TypeError, ValueError):  # some functions written in C
            self._signature = None
        parameters = self._signature.parameters.values() if self._signature else ()
        self._defaults = any(p.default is not p.empty for p in parameters)

    def __get__(self, instance, owner=None):
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args, **kwargs):
        if self._signature and (kwargs or self._defaults):
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            if not kwargs.keys().isdisjoint(bound.kwargs):
                named = sorted(kwargs.keys() & bound.kwargs)
                raise TypeError(f"{self._name}: expected arguments that can be given by position, got {named}")
            args = bound.args
        elif kwargs:
            raise TypeError(f"{self._name}: expected arguments by position, got {sorted(kwargs)}")
        call = _Call(self, args)
        if not call.inputs or not is_grad_enabled():
            return call.constant(self._function(*call.arguments()))
        self._check_rule()
        return call.record(self._value(call))


class custom_vjp(_Custom):
    """Decorator: a function whose reverse-mode rule is given by hand, with ``f.defvjp(fwd, bwd)``.

    fun: the function, of numbers or nests of numbers. nondiff_argnums: which positional arguments are not numbers, or not to be
    differentiated by; bwd gets them first.

    Forward mode works too, by one call of bwd for each result. Raises AttributeError where a derivative is asked for and no
    rule was given; TypeError for results that are no numbers, and where the function uses a Variable that is not among its
    arguments, whose gradient would be lost.

    >>> import math, mingrad
    >>> @mingrad.custom_vjp
    ... def sine(x):
    ...     return math.sin(x)
    >>> sine.defvjp(lambda x: (sine(x), x), lambda x, adjoint: (adjoint * mingrad.cos(x),))
    >>> mingrad.grad(sine)(0.0), mingrad.derivative(sine, 3)(0.0)
    (1.0, -1.0)
    """

    _kind = "custom_vjp"
    _forward = _backward = None

    def defvjp(self, fwd, bwd):
        """defvjp(fwd, bwd): give the rule. fwd(*args) gives a pair (f's result, residuals); bwd(residuals, adjoint of the result)
        a tuple with the adjoint of each argument, in the argument's nest, or None for zeros."""
        for rule in (fwd, bwd):
            if not callable(rule):
                raise TypeError(f"defvjp: expected two functions, fwd and bwd, got {type(rule).__name__}")
        self._forward, self._backward = fwd, bwd

    def _check_rule(self):
        if self._forward is None:
            raise AttributeError(
                f"custom_vjp: {self._name} has no derivative rule yet; give it one with {self._name}.defvjp(fwd, bwd)"
            )

    def _value(self, call):
        pair = self._forward(*call.arguments())
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"custom_vjp: expected fwd of {self._name} to give a pair (result, residuals), got {type(pair).__name__}"
            )
        call.residuals = pair[1]
        return pair[0]

    def _vjp(self, call, cotangents, operands):
        residuals = call.residuals
        if operands is not None:
            residuals = self._forward(*call.arguments(operands))[1]
        found = self._backward(*call.static(), residuals, call.build(cotangents))
        return call.adjoints(found, "bwd")

    def _jvp(self, call, tangents, operands):
        return [_sum_of_products(self._vjp(call, row, operands), tangents) for row in _unit_rows(call.count)]


class custom_jvp(_Custom):
    """Decorator: a function whose forward-mode rule is given by hand, with ``@f.defjvp``.

    fun, nondiff_argnums: as in :class:`custom_vjp`. Reverse mode works too, by one call of the rule for each number among the
    arguments. Raises as custom_vjp.

    >>> import math, mingrad
    >>> @mingrad.custom_jvp
    ... def power(x, y):
    ...     return math.pow(x, y)
    >>> @power.defjvp
    ... def rule(primals, tangents):
    ...     (x, y), (dx, dy) = primals, tangents
    ...     z = power(x, y)
    ...     return z, y * z / x * dx + z * mingrad.log(x) * dy
    >>> mingrad.grad(power, argnums=(0, 1))(2.0, 3.0)
    (12.0, 5.545177444479562)
    """

    _kind = "custom_jvp"
    _rule = None

    def defjvp(self, jvp):
        """defjvp(jvp): give the rule: jvp(primals, tangents) gives a pair (f's result, its tangent), the latter in the result's
        nest. Returns jvp, so that it serves as a decorator."""
        if not callable(jvp):
            raise TypeError(f"defjvp: expected a function, got {type(jvp).__name__}")
        self._rule = jvp
        return jvp

    def defjvps(self, *jvps):
        """defjvps(*jvps): give the rule one argument at a time: each jvp(tangent, result, *primals) gives that argument's part of
        the result's tangent, for a function with one number as its result; None for an argument that has no part."""

        def rule(primals, tangents):
            if len(jvps) != len(primals):
                raise TypeError(
                    f"custom_jvp: expected {len(primals)} functions in {self._name}.defjvps, one for each argument (None for one "
                    f"that has no part), got {len(jvps)}"
                )
            result = self(*primals)
            parts = [jvp(tangent, result, *primals) for jvp, tangent in zip(jvps, tangents) if jvp is not None]
            return result, sum(parts[1:], parts[0]) if parts else 0.0

        self._rule = rule

    def _check_rule(self):
        if self._rule is None:
            raise AttributeError(f"custom_jvp: {self._name} has no derivative rule yet; give it one with @{self._name}.defjvp")

    def _value(self, call):
        return self._function(*call.arguments())

    def _jvp(self, call, tangents, operands):
        pair = self._rule(*call.static(), call.differentiated(operands), call.tangents(tangents))
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"custom_jvp: expected the rule of {self._name} to give a pair (result, tangent), got {type(pair).__name__}"
            )
        return _leaves_like(pair[1], call.result, f"custom_jvp: the rule of {self._name}", "tangents")

    def _vjp(self, call, cotangents, operands):
        return [_sum_of_products(self._jvp(call, row, operands), cotangents) for row in _unit_rows(len(call.inputs))]


class _Call:
    """One call of a custom function: its arguments as numbers, which of them are inputs (Variables that ask for a gradient), and
    the nests of arguments and result. It is what the nodes of its results know of it."""

    def __init__(self, custom, args):
        self.custom = custom
        self.name = custom._name
        self.args = args
        for k in custom._nondiff:
            if not -len(args) <= k < len(args):
                raise ValueError(
                    f"{custom._kind}: nondiff_argnums {k} is out of range: {self.name} was called with {len(args)} arguments"
                )
        skipped = {k % len(args) for k in custom._nondiff}
        self.chosen = [k for k in range(len(args)) if k not in skipped]
        self.parts = []  # of each chosen argument its leaves and what builds its nest
        self.inputs, self.places, self.numbers = [], [], []
        self.any_variable = False
        for k in self.chosen:
            leaves, build = _nothing if args[k] is None else _flatten(args[k], f"{self.name}: argument {k}")
            self.parts.append((len(leaves), build))
            for leaf in leaves:
                if isinstance(leaf, Variable):
                    _core._refuse_outside(leaf, self.name)
                    self.any_variable = True
                    if leaf.requires_grad:
                        self.places.append(len(self.numbers))
                        self.inputs.append(leaf)
                    leaf = leaf.data
                self.numbers.append(leaf)

    # nests

    def nests(self, leaves):
        """A flat list as the nests of the chosen arguments."""
        found, at = [], 0
        for count, build in self.parts:
            found.append(build(leaves[at : at + count]))
            at += count
        return found

    def differentiated(self, operands=None):
        """The chosen arguments: numbers, or these Variables in the inputs' places."""
        leaves = self.numbers.copy()
        if operands is not None:
            for place, v in zip(self.places, operands):
                leaves[place] = v
        return tuple(self.nests(leaves))

    def static(self):
        """The other arguments."""
        return [self.args[k] for k in range(len(self.args)) if k not in self.chosen]

    def arguments(self, operands=None):
        """All arguments in their order."""
        args = list(self.args)
        for k, nest in zip(self.chosen, self.differentiated(operands)):
            args[k] = nest
        return args

    def tangents(self, tangents):
        """Tangents of the inputs as nests of the chosen arguments; those of other numbers are 0."""
        leaves = [0.0] * len(self.numbers)
        for place, tangent in zip(self.places, tangents):
            leaves[place] = tangent
        return tuple(self.nests(leaves))

    def adjoints(self, found, rule):
        """The inputs' part of what a rule gave for all chosen arguments."""
        what = f"{self.custom._kind}: {rule} of {self.name}"
        if not isinstance(found, (tuple, list)) or len(found) != len(self.chosen):
            got = f"{len(found)}" if isinstance(found, (tuple, list)) else type(found).__name__
            raise TypeError(f"{what}: expected a tuple of {len(self.chosen)}, one adjoint for each argument, got {got}")
        leaves = []
        for nest, k, (count, _) in zip(found, self.chosen, self.parts):
            leaves += [0.0] * count if nest is None else _leaves_like(nest, self.args[k], what, "adjoints")
        return [leaves[place] for place in self.places]

    # results

    def values(self, result):
        """The result's leaves as floats, and what builds its nest."""
        leaves, build = _flatten(result, f"{self.name}: the function's result")
        for leaf in leaves:
            if isinstance(leaf, Variable) and leaf.requires_grad:
                raise TypeError(
                    f"{self.custom._kind}: {self.name} uses a Variable that is not among its arguments, whose gradient would be "
                    f"lost: pass it as an argument, or use its .data"
                )
        return [leaf.data if isinstance(leaf, Variable) else leaf for leaf in leaves], build

    def constant(self, result):
        """The result where no derivative is asked for: constant Variables if some argument is a Variable."""
        if not self.any_variable:
            return result
        values, build = self.values(result)
        return build([Variable(x, requires_grad=False) for x in values])

    def record(self, result):
        values, self.build = self.values(result)
        self.count, self.result = len(values), self.build(values.copy())
        self.args = self.arguments()  # as numbers: the inputs themselves are the nodes' operands
        inputs, self.inputs = self.inputs, range(len(self.inputs))
        return self.build(_core._custom(self, inputs, values))

    # what the sweeps call: floats for floats (operands None), floats and Variables for Variables

    def vjp(self, cotangents, operands):
        return self._numbers(self.custom._vjp(self, cotangents, operands), operands)

    def jvp(self, tangents, operands):
        return self._numbers(self.custom._jvp(self, tangents, operands), operands)

    def _numbers(self, found, operands):
        if operands is None:
            return _floats(found)
        return [x if isinstance(x, Variable) else float(x) for x in found]


_nothing = [], lambda leaves: None  # the numbers of None, and what builds it of them


def _sum_of_products(xs, ys):
    total = 0.0
    for x, y in zip(xs, ys):
        if isinstance(x, Variable) or isinstance(y, Variable) or (x != 0 and y != 0):
            total = total + x * y
    return total
