"""Recorded programs as source: to_c() writes one C99 file, to_python() a Python function, each with its gradient.

The formulas come from the op table and the functions they call from csrc/portable.h, whose texts the core holds: here is only
how they are spelled in C and in Python, and where operands stand. The order of steps is the core's (csrc/export.pxi).
"""

import ast
import builtins
import keyword
import math
import operator
import re
from array import array
from collections import namedtuple
from functools import cache

from . import _core
from ._translate import MATH, Unknown, translate
from ._version import __version__
from .program import _NUMBER

__all__ = ["to_c", "to_python"]

_STRAIGHT = 1000  # steps that are written out one by one; a longer program becomes a table of steps
_COMPARISONS = 100  # likewise
_UNROLLED = 3  # results of a step that are written out instead of a loop
_COPIED = 8  # values that are copied without a loop
_LINKS = 6  # links of a chain that are written as one expression
_COMPARE = dict(zip(range(6), ("<", "<=", "==", "!=", ">", ">=")))  # Py_LT to Py_GE


def to_c(program, name, gradient=True):
    """See Program.to_c()."""
    _check_name(name, "to_c", _is_c_name, "a C identifier that is free: no keyword, no name of the standard library", "price")
    return _CFile(program, name, _checked(program, "to_c", gradient)).text()


def to_python(program, name, gradient=True):
    """See Program.to_python()."""
    _check_name(
        name,
        "to_python",
        _is_python_name,
        "a Python identifier that is free: no keyword, no built-in name, no _ in front",
        "price",
    )
    return _PythonFile(program, name, _checked(program, "to_python", gradient)).text()


def _checked(program, what, gradient):
    if gradient and len(program.outputs) != 1:
        raise ValueError(
            f"{what}: expected a program with one number as its result, which has a gradient, got {len(program.outputs)} results; "
            f"pass gradient=False, or record a function that gives one of them"
        )
    return bool(gradient)


def _check_name(name, what, is_right, expected, example):
    if not isinstance(name, str):
        raise TypeError(f"{what}: expected a name such as {example!r}, got {type(name).__name__}")
    if not is_right(name):
        raise ValueError(f"{what}: expected {expected}, such as {example!r}, got {name!r}")


def _is_c_name(name):
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)) and name not in _c_names()


def _is_python_name(name):
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and name[0] != "_"
        and name != "math"
        and not hasattr(builtins, name)
    )


@cache
def _c_names():
    """C99's keywords, and its library's names as far as a compiler knows them without being asked."""
    real = (
        "acos asin atan atan2 cos sin tan acosh asinh atanh cosh sinh tanh exp exp2 expm1 frexp ilogb ldexp log log10 log1p log2 "
        "logb modf scalbn scalbln cbrt fabs hypot pow sqrt erf erfc lgamma tgamma ceil floor nearbyint rint lrint llrint round "
        "lround llround trunc fmod remainder remquo copysign nan nextafter nexttoward fdim fmax fmin fma cabs cacos cacosh carg "
        "casin casinh catan catanh ccos ccosh cexp cimag clog conj cpow cproj creal csin csinh csqrt ctan ctanh"
    ).split()
    return frozenset(
        [f + ending for f in real for ending in ("", "f", "l")]
        + (
            "auto break case char const continue default do double else enum extern float for goto if inline int long register "
            "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while main signgam "
            "fpclassify isfinite isinf isnan isnormal signbit isgreater isgreaterequal isless islessequal islessgreater "
            "isunordered isalnum isalpha isblank iscntrl isdigit isgraph islower isprint ispunct isspace isupper isxdigit tolower "
            "toupper abort abs atexit atof atoi atol atoll calloc div exit free getenv labs ldiv llabs lldiv malloc qsort rand "
            "realloc srand strtod strtol system memchr memcmp memcpy memmove memset strcat strchr strcmp strcpy strcspn strlen "
            "strncat strncmp strncpy strpbrk strrchr strspn strstr strtok fprintf fputc fputs fscanf fwrite getc getchar gets "
            "perror printf putc putchar puts remove rename scanf snprintf sprintf sscanf tmpfile vfprintf vfscanf vprintf vscanf "
            "vsnprintf vsprintf vsscanf double_t float_t size_t ptrdiff_t wchar_t int8_t int16_t int32_t int64_t uint8_t uint16_t "
            "uint32_t uint64_t intptr_t uintptr_t intmax_t uintmax_t"
        ).split()
    )


# -- the texts that the core holds -----------------------------------------------------------------


@cache
def _table():
    """The op table: {name: row}."""
    return {row["name"]: row for row in _core._ops()}


@cache
def _constants():
    """Constants that formulas name."""
    return {name: float(text) for name, (parameters, text) in _core._meanings().items() if not parameters}


class _Piece:
    """One of the pieces of csrc/portable.h."""

    def __init__(self, text):
        self.text = text
        lines = [line for line in text.splitlines() if re.match(r"(static |inline |const )*double ", line)]
        self.names = {x for line in lines for x in re.findall(r"\b(?:mg|k)_\w+(?=\(|\[\d+\] =| =)", line.partition("{")[0])}
        self.needs = set(re.findall(r"\b(?:mg|k)_\w+", _without_comments(text))) - self.names


@cache
def _pieces():
    """The pieces of portable.h, in order: {name: piece}."""
    lines = [line for line in _core._portable().splitlines() if not line.startswith("#")]
    found = {}
    for text in "\n".join(lines).split("\n\n"):
        if text.strip():
            piece = _Piece(text.strip("\n"))
            found.update(dict.fromkeys(piece.names, piece))
    return found


@cache
def _names(text):
    """The names in a formula."""
    return frozenset(node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name))


def _without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


@cache
def _tree(text):
    return ast.parse(text.strip(), mode="eval").body


@cache
def _is_arithmetic(text):
    """Does this formula call nothing? Then a compiler computes what it can with numbers to the same bits."""
    return all(node.func.id == "where" for node in ast.walk(_tree(text)) if isinstance(node, ast.Call))


# -- formulas as source ----------------------------------------------------------------------------

_SUM, _PRODUCT, _UNARY, _ATOM = range(4)  # how tightly an expression holds together
_SIGNS = {ast.Add: ("+", _SUM), ast.Sub: ("-", _SUM), ast.Mult: ("*", _PRODUCT), ast.Div: ("/", _PRODUCT)}
_COMPARISON_SIGNS = {
    ast.Lt: ("<", operator.lt), ast.LtE: ("<=", operator.le), ast.Gt: (">", operator.gt), ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
}  # fmt: skip


class _Formulas:
    """How formulas are spelled in a language, and which functions they have asked for: C; Python's is below."""

    def __init__(self, prefix):
        self.prefix = prefix
        self.pieces = set()  # names
        self.ops = {}  # {name: source} of ops that formulas call and libm has not got

    def write(self, text, names, known=()):
        """The formula with these texts for its names. known: of names that are numbers already {name: number}."""
        self.known = dict(known)
        return self._write(_tree(text), names)[0]

    def _write(self, node, names):
        if isinstance(node, ast.Constant):
            return self.constant(node.value), _ATOM
        if isinstance(node, ast.Name):
            if node.id in names:
                return names[node.id], _ATOM
            return self.number(_constants()[node.id]), _ATOM
        if isinstance(node, ast.Subscript):
            at = self._write(node.slice, names)[0]
            return f"({names[node.value.id]})[{at}]", _ATOM
        if isinstance(node, ast.UnaryOp):
            operand = self._at_least(node.operand, names, _UNARY)
            return (f"-({operand})" if operand.startswith("-") else f"-{operand}"), _UNARY
        if isinstance(node, ast.BinOp):
            sign, hold = _SIGNS[type(node.op)]
            left, right = self._at_least(node.left, names, hold), self._at_least(node.right, names, hold + 1)
            return (_product([left, right]) if sign == "*" else f"{left} {sign} {right}"), hold
        function, arguments = node.func.id, node.args
        if function == "where":
            condition, then, otherwise = arguments
            sides = [self._number(x) for x in (condition.left, condition.comparators[0])]
            if None not in sides:
                holds = _COMPARISON_SIGNS[type(condition.ops[0])][1](*sides)
                return self._write(then if holds else otherwise, names)
            test = f"{self._at_least(condition.left, names, _SUM)} {_COMPARISON_SIGNS[type(condition.ops[0])][0]} "
            test += self._at_least(condition.comparators[0], names, _SUM)
            return self.choice(test, self._write(then, names)[0], self._write(otherwise, names)[0]), _ATOM
        return self.call(function, [self._write(x, names)[0] for x in arguments]), _ATOM

    def _at_least(self, node, names, hold):
        text, holds = self._write(node, names)
        return text if holds >= hold else f"({text})"

    def _number(self, node):
        """A side of a condition that is known now; else None."""
        return node.value if isinstance(node, ast.Constant) else self.known.get(node.id) if isinstance(node, ast.Name) else None

    def call(self, function, arguments):
        """A function as formulas call it."""
        piece = function if function.startswith("k_") else f"mg_{function}"
        if piece in _pieces():
            return f"{self.piece(piece)}({', '.join(arguments)})"
        row = _table().get(function)
        if row is not None and not row["value"].startswith(f"{function}("):
            if function not in self.ops:
                outside, self.known = self.known, {}
                self.ops[function] = self.function(function, self._write(_tree(row["value"]), {"a": "a"})[0])
                self.known = outside
            return f"{self.own(function)}({', '.join(arguments)})"
        return self.library(function, arguments)

    def piece(self, name):
        self.pieces.add(name)
        return self.own(re.sub(r"^(mg|k)_", "", name))

    def needed(self):
        """The pieces asked for and what they need, in order."""
        wanted, left = set(), list(self.pieces)
        while left:
            name = left.pop()
            if name not in wanted:
                wanted.add(name)
                left += _pieces()[name].needs
        return list(dict.fromkeys(piece for name, piece in _pieces().items() if name in wanted))

    # C

    def own(self, name):
        return f"{self.prefix}_{name}"

    def constant(self, value):
        return str(value) if isinstance(value, int) else self.number(value)

    def number(self, x):
        return _c_number(x)

    def choice(self, test, then, otherwise):
        return f"({test} ? {then} : {otherwise})"

    def library(self, function, arguments):
        return f"{function}({', '.join(arguments)})"

    def function(self, name, text):
        return f"static double {self.own(name)}(double a)\n{{\n    return {text};\n}}"

    def helpers(self):
        """The functions that formulas have asked for, as one text."""
        found = []
        for piece in self.needed():
            text = re.sub(r"\b(mg|k)_(?=\w)", f"{self.prefix}_", piece.text)
            for name, value in _constants().items():
                text = re.sub(rf"\b{name}\b", self.number(value), text)
            found.append(re.sub(r"^(inline )?double", r"static \1double", text, flags=re.MULTILINE))
        return "\n\n".join(found + list(self.ops.values()))


def _c_number(x):
    """A double as a C constant: whole numbers as such, others in hexadecimal."""
    if math.isnan(x):
        return "NAN"
    if math.isinf(x):
        return "INFINITY" if x > 0 else "(-INFINITY)"
    text = f"{x:.1f}" if x == int(x) and abs(x) < 1e6 else x.hex()
    return f"({text})" if text.startswith("-") else text


# -- what both languages write ---------------------------------------------------------------------


class _Step(namedtuple("_Step", "kind op n y at where run strides k i count")):
    """A step of a schedule; the fields are in csrc/steps.h, operands in threes. op: of a helper step the function's name."""

    __slots__ = ()

    @property
    def is_wide(self):
        """Has it n results side by side? Else one, and n is how many operands a range has."""
        if self.kind == "value":
            return self.op in _table() and _table()[self.op]["kind"] in ("unary", "binary")
        return self.kind not in ("aux", "slope_n")

    def places(self, m, n, index):
        """Where operand m of n results stands, or the n numbers of range m."""
        at, where = self.at[m], self.where[m]
        if where == "run":
            return range(at, at + n)
        if where == "same":
            return [at] * n
        if where == "listed":
            return index[at : at + n]
        return [first + self.strides[m] * i for first in index[at : at + n // self.run] for i in range(self.run)]

    def links(self, m, index):
        """Of a chain: where operand m of each link stands, those of a result (by runs: where those of a run begin) one behind
        the other."""
        at = self.at[m]
        if self.where[m] == "run":
            return range(at, at + self.count)
        return index[at : at + self.count * (self.n // self.run if self.where[m] == "runs" else self.n)]


class _File:
    """A program to be written out."""

    def __init__(self, program, name, gradient):
        self.program, self.name, self.gradient = program, name, gradient
        view = _core._schedule(program, gradient)
        self.index, self.start = view["index"], view["start"]
        self.inputs, self.captured, self.outputs = view["inputs"], view["captured"], view["outputs"]
        self.adjoints = view["adjoints"]
        if view["seed"] is not None:  # a number like others: the derivatives are those of the result itself
            self.start[view["seed"]] = 1.0
        self.guards = list(dict.fromkeys(view["guards"]))
        steps = [_Step._make(step) for step in view["steps"]]
        self.phases = steps[: view["n_results"]], steps[view["n_results"] :]
        self.computed = bytearray(len(self.start))  # 1: no number stands there
        for place in [*self.inputs, *self.captured]:
            self.computed[place] = 1
        for step in steps:
            n = step.n if step.is_wide else 1
            self.computed[step.y : step.y + n] = b"\1" * n

    def about(self):
        """Lines that say what the inputs, parameters and results are."""
        lines, groups = [], {}
        for k, (whole, part) in enumerate(_paths(*self.program.keys)):
            groups.setdefault(whole, []).append((k, part))
        for whole, members in groups.items():
            (first, part), (last, _) = members[0], members[-1]
            many = f"x[{first}] to x[{last}]: the numbers of {whole}, in order"
            lines.append(f"x[{first}]: {whole}{part}" if len(members) == 1 else many)
        lines += [f"p[{k}]: {v.label}" for k, v in enumerate(self.program.captured) if v.label]
        results = _result_paths(self.program)
        if len(results) > 1:
            lines += [f"y[{k}]: result{path}" for k, path in enumerate(results[:_COMPARISONS])]
            lines += [f"and so on to y[{len(results) - 1}]"] if len(results) > _COMPARISONS else []
        return [_plain(line) for line in lines]

    def comparison(self, guard):
        """What was found when the program was recorded, for people."""
        op, left, right, outcome = guard
        return _plain(
            f"{self.named(left)} {_COMPARE[op]} {self.named(0.0 if right is None else right)} was {bool(outcome)}".lower()
        )

    def named(self, place):
        if isinstance(place, float):
            return repr(place)
        for letter, places in (("x", self.inputs), ("p", self.captured)):
            if place in places:
                return f"{letter}[{places.index(place)}]"
        return repr(self.start[place]) if not self.computed[place] else "a value"


def _paths(args, kwargs):
    """Of each input (where its list is, where in that it is)."""
    found = [(f"argument {k}", item) for k, item in enumerate(_items(args))]
    found += [(f"argument {name}", item) for (_, name), item in zip(kwargs[1] if kwargs else (), _items(kwargs))]
    for path, item in found:
        yield from _leaves(item, path, "")


def _items(key):
    """What a nest's key (program._key()) holds."""
    return () if not key else [_NUMBER] * key[1] if isinstance(key[1], int) else key[-1]


def _leaves(key, path, part):
    if key is _NUMBER:
        yield path, part
    elif not isinstance(key[0], str) or key[0] == "array":  # else it is no input
        if isinstance(key[1], int):
            for k in range(key[1]):
                yield path + part, f"[{k}]"
        else:
            names = [name for _, name in key[1]] if len(key) == 3 else range(len(key[1]))
            for name, item in zip(names, key[-1]):
                yield from _leaves(item, path + part, f"[{name!r}]")


def _result_paths(program):
    """Of each result where it is in what the function gives."""
    found = [""] * len(program.outputs)

    def walk(tree, path):
        if hasattr(tree, "dtype"):
            tree = tree.tolist()
        if isinstance(tree, int):
            found[tree] = path
        else:
            for name, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
                walk(item, f"{path}[{name!r}]")

    walk(program.build(list(range(len(found)))), "")
    return found


def _plain(text):
    """A text that may stand in a comment of either language."""
    text = ascii(text)[1:-1].replace("\\", "/")
    for ends, harmless in (("??", "? ?"), ("*/", "* /"), ("/*", "/ *"), ('"""', "'''")):
        while ends in text:
            text = text.replace(ends, harmless)
    return text


def _wrapped(items, indent="    ", width=118):
    """Items with commas between, in lines."""
    lines, line = [], indent
    for item in items:
        if len(line) + len(item) + 2 > width and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += f"{item}, "
    return "\n".join([*lines, line.rstrip()])


def _bare(text):
    """An expression without brackets around all of it."""
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and k < len(text) - 1:
            return text
    return text[1:-1] if depth == 0 and text.startswith("(") else text


def _product(factors):
    """1 * x is x."""
    return " * ".join([x for x in factors if x != "1.0"] or ["1.0"])


def _indented(lines, indent="    "):
    return "\n".join([indent + line if line else "" for line in lines])


# -- C ---------------------------------------------------------------------------------------------

_RESULTS, _ADJOINTS = 1, 2  # phases, as bits


class _CFile(_File):
    """A program as a C file. Values stand in the array v, which the caller gives as `work`."""

    def __init__(self, program, name, gradient):
        super().__init__(program, name, gradient)
        self.formulas = _Formulas(name)
        self.phase = _RESULTS
        self.needed = bytearray(len(self.start))  # phases that read a place
        self.used = {_RESULTS: 0, _ADJOINTS: 0}  # places below this
        self.room = {_RESULTS: 0, _ADJOINTS: 0}  # for operands of ranges
        self.list, self.listed = array("q"), {}  # places that loops look up, and where in them equal ones are
        self.row = None  # of the table of steps: the row that is being made
        self.forms, self.rows = {}, array("q")  # what rows mean, and the rows
        self.numbers = []  # that are read from v

    # numbers and places in the text

    def field(self, number):
        """A number that is another one in each step."""
        if self.row is None:
            return str(number)
        self.row.append(number)
        return f"s[{len(self.row) - 1}]"

    def read(self, places):
        """These places are read in v."""
        for place in places:
            self.needed[place] |= self.phase
        self.used[self.phase] = max(self.used[self.phase], 1 + max(places, default=-1))

    def at(self, numbers, i):
        """Number i of these, i being an expression."""
        first = numbers[0]
        stride = numbers[1] - first if len(numbers) > 1 else 0
        if all(number == first + stride * k for k, number in enumerate(numbers)):
            return self.strided(self.field(first), stride, i)
        return f"{self.name}_index[{self.strided(self.field(self.listing(numbers)), 1, i)}]"

    def listing(self, numbers):
        """Where these numbers stand in the table of places."""
        numbers = array("q", numbers)
        key = numbers.tobytes()
        if key not in self.listed:
            self.listed[key] = len(self.list)
            self.list.extend(numbers)
        return self.listed[key]

    def strided(self, first, stride, i):
        begin = "" if first == "0" else f"{first} + "
        if stride in (0, 1):
            return f"{begin}{i}" if stride else first
        return f"{begin}{self.field(stride)} * {i if i.isalpha() else f'({i})'}"

    def values(self, places, literal=False):
        """The values at these places, as an expression in i. literal: may a number be written as such?"""
        if literal and self.row is None and self.is_number(places):
            return _c_number(self.start[places[0]])
        self.read(places)
        return f"v[{self.at(places, 'i')}]"

    def is_number(self, places):
        """Is there one number for all?"""
        first = places[0]
        return not self.computed[first] and (
            len(places) == 1 or (places[1] == first and all(place == first for place in places))
        )

    def operand(self, step, m):
        """Operand m of a step of one result."""
        return self.values([step.at[m]])

    def results(self, step, n=1):
        """Where the n results of a step go."""
        self.used[self.phase] = max(self.used[self.phase], step.y + n)
        return f"v[{self.field(step.y)}]" if n == 1 else f"v[{self.field(step.y)} + i]"

    def loop(self, n, *lines, i="i"):
        """These lines n times."""
        if n == 1 and len(lines) == 1 and i == "i":
            return list(lines)
        brace = len(lines) > 1
        head = f"for ({i} = 0; {i} < {self.field(n)}; {i}++){' {' * brace}"
        return [head, *["    " + line for line in lines], *["}"] * brace]

    # steps: a function for each kind

    def step(self, step):
        """Lines of C for a step."""
        write = getattr(self, f"write_{step.kind}")
        if self.row is None and step.is_wide and 1 < step.n <= _UNROLLED and step.kind != "chain":
            return [line for j in range(step.n) for line in write(self.one(step, j))]
        return write(step)

    def one(self, step, j):
        """Result j of a step of several, as a step of its own."""
        at = [step.places(m, step.n, self.index)[j] for m in range(3)]
        return step._replace(n=1, y=step.y + j, at=at, where=("run",) * 3)

    def each(self, step, text, names):
        """Each result by a formula. names: which operand a name is."""
        n, used, literal = step.n if step.is_wide else 1, _names(text), _is_arithmetic(text)
        places = {name: step.places(m, n, self.index) for name, m in names.items() if name in used}
        known = {name: self.start[at[0]] for name, at in places.items() if self.row is None and self.is_number(at)}
        names = {name: self.values(at, literal) for name, at in places.items()}
        return self.loop(n, f"{self.results(step, n)} = {_bare(self.formulas.write(text, names, known))};")

    def write_value(self, step):
        row = _table().get(step.op)
        if row is None:
            return self.write_pair(step)
        if row["kind"] == "nary":
            return self.write_range(step, row["value"], {})
        return self.each(step, row["value"], {"a": 0, "b": 1, "m": 2})

    def write_slope_a(self, step):
        return self.each(step, _table()[step.op]["da"], {"a": 0, "b": 1, "y": 2})

    def write_slope_b(self, step):
        return self.each(step, _table()[step.op]["db"], {"a": 0, "b": 1, "y": 2})

    def write_helper(self, step):
        return self.each(step, f"{step.op}(a)", {"a": 0})

    def write_aux(self, step):
        return self.write_range(step, _table()[step.op]["aux"], {"y": 2})

    def write_slope_n(self, step):
        text = _table()[step.op]["da"]
        names = {name: self.operand(step, m) for name, m in (("x", 0), ("y", 1), ("aux", 2)) if name in _names(text)}
        if "n" in _names(text):
            names["n"] = self.field(step.count)
        return [f"{self.results(step)} = {_bare(self.formulas.write(text, names, {'i': step.i, 'k': step.k}))};"]

    def write_range(self, step, text, names):
        lines, used = [], _names(text)
        known = {name: self.operand(step, m) for name, m in names.items() if name in used}
        if "xs" in used:
            lines, known["xs"] = self.gathered(step, 0, "room")
        known |= {name: self.field(number) for name, number in (("n", step.n), ("k", step.k)) if name in used}
        return [*lines, f"{self.results(step)} = {_bare(self.formulas.write(text, known))};"]

    def write_pair(self, step):
        lines, xs = self.gathered(step, 0, "room")
        more, ys = self.gathered(step, 1, f"room + {self.field(step.n)}" if lines else "room")
        bias = f"{self.values([step.at[2]], True)} + " if step.op == "affine" else ""
        return [*lines, *more, f"{self.results(step)} = {bias}{self.formulas.call('k_dot', [xs, ys, self.field(step.n)])};"]

    def gathered(self, step, m, room):
        """Range m of a step: lines that put its n numbers into room, and where they are then."""
        places = step.places(m, step.n, self.index)
        if all(place == places[0] + k for k, place in enumerate(places)):
            self.read(places)
            return [], f"v + {self.field(places[0] if places else 0)}"
        self.room[self.phase] = max(self.room[self.phase], 2 * step.n)
        return self.loop(step.n, f"{'room' if room == 'room' else f'({room})'}[i] = {self.values(places)};"), room

    def write_chain(self, step):
        """c + a * b + ..., or c + a + ..., from left to right; c may be left out."""
        n, links, begins = step.n, step.count, step.where[2] == "none"
        factors = [step.links(m, self.index) for m in range(2 if step.op == "mul" else 1)]
        if step.where[0] == "runs":
            if links > 1:
                return self.write_runs(step, factors)
            factors = [step.places(m, n, self.index) if links else () for m in range(len(factors))]
        if links <= _LINKS and n <= _UNROLLED and self.row is None and step.where[0] == "listed":
            return [self.sum(step, j, factors) for j in range(n)]
        if links <= 1 or (n == 1 and links <= _LINKS):
            terms = [] if begins else [self.values(step.places(2, n, self.index), True)]
            for k in range(links):
                terms.append(_product([self.values(places[k::links], True) for places in factors]))
            return self.loop(n, f"{self.results(step, n)} = {' + '.join(terms)};")
        for places in factors:
            self.read(places)
        # -0.0 + x is x, whatever x
        lines = [f"double sum = {'-0.0' if begins else self.values(step.places(2, n, self.index), True)};"]
        i = "k" if n == 1 else f"i * {self.field(links)} + k"
        lines += self.loop(links, f"sum += {' * '.join([f'v[{self.at(places, i)}]' for places in factors])};", i="k")
        lines += [f"{self.results(step, n)} = sum;"]
        return self.loop(n, *lines) if n > 1 else ["{", *["    " + line for line in lines], "}"]

    def sum(self, step, j, factors):
        """Result j of a chain, as one expression."""
        terms = [] if step.where[2] == "none" else [self.values([step.places(2, step.n, self.index)[j]], True)]
        for k in range(step.count):
            terms.append(_product([self.values([places[j * step.count + k]], True) for places in factors]))
        return f"{self.results(step._replace(y=step.y + j))} = {' + '.join(terms)};"

    def write_runs(self, step, factors):
        """A chain by runs: link after link, each for a whole run."""
        n, run, links = step.n, step.run, step.count
        runs = n // run
        for m, firsts in enumerate(factors):
            for i in range(run):
                self.read([first + step.strides[m] * i for first in firsts])
        self.results(step, n)
        lines = [f"double *sum = v + {self.at(range(step.y, step.y + n, run), 'r')};"]
        if step.where[2] == "none":
            lines += self.loop(run, "sum[i] = -0.0;")  # -0.0 + x is x, whatever x
        else:
            places = step.places(2, n, self.index)
            self.read(places)
            if list(places) != list(range(step.y, step.y + n)):  # else the sum grows where it stands
                lines += self.loop(run, f"sum[i] = v[{self.strided(self.at(places[::run], 'r'), step.strides[2], 'i')}];")
        k = "k" if runs == 1 else f"r * {self.field(links)} + k"
        pointers = ", ".join([f"*{'ab'[m]} = v + {self.at(firsts, k)}" for m, firsts in enumerate(factors)])
        term = " * ".join([f"{'ab'[m]}[{self.strided('0', step.strides[m], 'i')}]" for m in range(len(factors))])
        lines += self.loop(links, f"const double {pointers};", *self.loop(run, f"sum[i] += {term};"), i="k")
        return self.loop(runs, *lines, i="r") if runs > 1 else ["{", *["    " + line for line in lines], "}"]

    # parts of functions

    def steps(self, steps):
        """Lines that run the steps of a phase; many become rows of a table."""
        if len(steps) <= _STRAIGHT:
            return [line for step in steps for line in self.step(step)]
        first = len(self.rows)
        for step in steps:
            self.row = [0]
            text = "\n".join(self.step(step))
            self.row[0] = self.forms.setdefault((text, len(self.row)), len(self.forms))
            self.rows.extend(self.row)
        self.row = None
        return [f"{self.name}_run(v, room, {self.name}_steps + {first}, {self.name}_steps + {len(self.rows)});"]

    def checks(self):
        """Lines that return where a comparison comes out otherwise than recorded."""
        lines, groups = [], {}
        for k, (op, left, right, outcome) in enumerate(self.guards):
            groups.setdefault((op, bool(outcome)), []).append((k + 1, left, 0.0 if right is None else right))
        if len(self.guards) <= _COMPARISONS:
            for k, guard in enumerate(self.guards):
                op, left, right, outcome = guard
                test = f"{self.side(left)} {_COMPARE[op]} {self.side(0.0 if right is None else right)}"
                lines.append(f"if ({f'!({test})' if outcome else test}) return {k + 1}; /* {self.comparison(guard)} */")
            return lines
        for (op, outcome), members in groups.items():
            numbers, left, right = zip(*members)
            sides = [self.values([self.placed(x) for x in side]) for side in (left, right)]
            test = f" {_COMPARE[op]} ".join(sides)
            lines += self.loop(len(members), f"if ({f'!({test})' if outcome else test}) return {self.at(numbers, 'i')};")
        return lines

    def side(self, x):
        return _c_number(x) if isinstance(x, float) else self.values([x], True)

    def placed(self, x):
        """The place of a value; a number gets a new one."""
        if not isinstance(x, float):
            return x
        self.start.append(x)
        self.computed.append(0)
        self.needed.append(0)
        return len(self.start) - 1

    def given(self, target, values):
        """Lines that copy values (places and floats) to the array target."""
        if len(values) <= _COPIED:
            return [f"{target}[{k}] = {self.side(x)};" for k, x in enumerate(values)]
        return self.loop(len(values), f"{target}[i] = {self.values([self.placed(x) for x in values])};")

    def loaded(self, phase):
        """Lines that put inputs, parameters and numbers into the places that this phase is the first to read."""
        first_read = [_RESULTS if phases & _RESULTS else phases for phases in self.needed]
        lines = []
        for source, places in (("x", self.inputs), ("p", self.captured)):
            lines += self.pairs(source, [(place, k) for k, place in enumerate(places) if first_read[place] == phase])
        numbers = [place for place, read in enumerate(first_read) if read == phase and not self.computed[place]]
        first = len(self.numbers)
        self.numbers += [self.start[place] for place in numbers]
        return lines + self.pairs(f"{self.name}_numbers", [(place, first + k) for k, place in enumerate(numbers)])

    def pairs(self, source, pairs):
        if len(pairs) <= _COPIED:
            return [f"v[{place}] = {source}[{k}];" for place, k in pairs]
        places, numbers = zip(*pairs)
        return self.loop(len(pairs), f"v[{self.at(places, 'i')}] = {source}[{self.at(numbers, 'i')}];")

    # the file

    def text(self):
        name = self.name
        lines = self.steps(self.phases[0]) + self.checks()
        outputs = self.given("y", self.outputs)
        lines = self.loaded(_RESULTS) + lines
        work = self.used[_RESULTS] + self.room[_RESULTS]
        arrays = [array_ for array_, places in (("x", self.inputs), ("p", self.captured)) if places]
        types = [f"const double *{array_}" for array_ in arrays]
        heads = [f"int {name}({', '.join([*types, 'double *y', 'double *work'])})"]
        defines = [f"#define {name.upper()}_WORK {max(work, 1)}"]
        if self.gradient:
            slopes = [f"double *g{array_}" for array_ in arrays]
            heads.append(f"int {name}_gradient({', '.join([*types, 'double *y', *slopes, 'double *work'])})")
            call = [
                "double *v = work;",
                f"int failed = {name}_results({', '.join([*arrays, 'v'])});",
                "if (failed) return failed;",
            ]
            back = self.adjoint_lines()
            end = max(self.used.values())
            functions = [
                self.function(f"static int {name}_results({', '.join([*types, 'double *v'])})", lines, self.used[_RESULTS]),
                self.function(heads[0], [*call, *outputs]),
                self.function(heads[1], [*call, *back, *outputs], end),
            ]
            defines.append(f"#define {name.upper()}_GRADIENT_WORK {max(work, end + self.room[_ADJOINTS], 1)}")
        else:
            functions = [self.function(heads[0], ["double *v = work;", *lines, *outputs], self.used[_RESULTS])]
        parts = [self.header(heads), _C_BEGIN.format(name=name), "\n".join(defines), *self.definitions(), *functions]
        return "\n\n".join(parts) + "\n"

    def adjoint_lines(self):
        """What a gradient does when the results are there."""
        self.phase, n = _ADJOINTS, len(self.inputs)
        lines = self.steps(self.phases[1])
        lines += self.given("gx", self.adjoints[:n]) + self.given("gp", self.adjoints[n:])
        return self.loaded(_ADJOINTS) + lines

    def function(self, head, lines, room=0):
        """A function that ends with return 0. room: where in v it begins."""
        text = "\n".join(lines)
        unused = [x for x in re.findall(r"\*(\w+)[,)]", head) if not re.search(rf"\b{x}\b", text)]
        first = [f"(void){x};" for x in unused] + self.counters(text)
        if re.search(r"\broom\b", text):
            at = f"double *room = v + {room};"
            lines = [lines[0], at, *lines[1:]] if lines[0] == "double *v = work;" else [at, *lines]
        return "\n".join([head, "{", _indented([*first, *lines, "return 0;"]), "}"])

    def counters(self, text):
        used = [i for i in "ikr" if f"for ({i} = 0;" in text]
        return [f"int32_t {', '.join(used)};"] if used else []

    def definitions(self):
        """Parameters, functions that formulas call, and tables."""
        name, found, parameters = self.name, [], [v.data for v in self.program.captured]
        if parameters:
            found.append(f"const double {name}_parameters[{len(parameters)}] = {{\n{_wrapped(map(_c_number, parameters))}\n}};")
        helpers = self.formulas.helpers()
        if helpers:
            found.append(helpers)
        if self.numbers:
            found.append(
                "/* volatile: what compilers compute of constants by themselves, such as pow(x, 2), is not always what libm does."
                f" */\nstatic const volatile double {name}_numbers[{len(self.numbers)}] = "
                f"{{\n{_wrapped(map(_c_number, self.numbers))}\n}};"
            )
        if self.list:
            found.append(
                f"static const {self.type(self.list)} {name}_index[{len(self.list)}] = {{\n{_wrapped(map(str, self.list))}\n}};"
            )
        if self.rows:
            kind = self.type(self.rows)
            text = _wrapped(map(str, self.rows))
            found.append(
                f"/* What to do, and with which values. */\nstatic const {kind} {name}_steps[{len(self.rows)}] = {{\n{text}\n}};"
            )
            cases = []
            for (form, size), number in self.forms.items():
                cases += [f"case {number}:", *["    " + line for line in form.split("\n")], f"    s += {size};", "    break;"]
            first = self.counters("\n".join(cases)) + ([] if any("room" in line for line in cases) else ["(void)room;"])
            found.append(
                f"static void {name}_run(double *v, double *room, const {kind} *s, const {kind} *end)\n{{\n{_indented(first)}\n"
                f"    while (s < end) {{\n        switch (*s) {{\n{_indented(cases, ' ' * 8)}\n        }}\n    }}\n}}"
            )
        return found

    def type(self, numbers):
        low, high = min(numbers), max(numbers)
        if high >= 2**31:
            raise ValueError("to_c: expected a program of less than 2**31 values")
        return "int16_t" if low >= -(2**15) and high < 2**15 else "uint16_t" if low >= 0 and high < 2**16 else "int32_t"

    def header(self, heads):
        name, n, m = self.name, len(self.inputs), len(self.captured)
        lines = [
            f"{name}: a program that mingrad {__version__} recorded of the function {_plain(repr(self.program.name))}.",
            "",
        ]
        lines += [f"    {head};" for head in heads] + [""]
        if n:
            lines.append(f"x: the inputs, {n} doubles.")
        if m:
            lines.append(f"p: the parameters, {m} doubles; {name}_parameters has what they were when this was written.")
        lines.append(f"y: {f'the results, {len(self.outputs)} doubles' if len(self.outputs) != 1 else 'the result, a double'}.")
        if self.gradient and n + m:
            slopes = " and ".join(
                [f"{g}: by the {what}" for g, what in (("gx", "inputs"),) * (n > 0) + (("gp", "parameters"),) * (m > 0)]
            )
            lines.append(f"Derivatives of y[0], {slopes}.")
        size = f"{name.upper()}_WORK doubles" + f", for the gradient {name.upper()}_GRADIENT_WORK" * self.gradient
        lines += [
            f"work: {size}, with anything in them.",
            "Calls that run at once need a work each; they share nothing else.",
            "",
        ]
        if self.guards:
            lines += [
                "Returns 0, or k where comparison k of the function comes out otherwise than it did when this was recorded, and",
                "another program would be needed: then only work has been written to.",
            ]
        else:
            lines.append("Returns 0.")
        lines += [
            "Where Python raises, as for log(-1) and 1/0, there are infinities and nan, as IEEE 754 and C99's Annex F have them.",
            "",
            "C99 and libm, nothing else; no allocation. The bits are mingrad's where libm is the same and nothing is contracted:",
            f"    cc -std=c99 -O2 -ffp-contract=off -c {name}.c",
        ]
        about = self.about()
        return "/* " + "\n * ".join(lines + [""] * bool(about) + about).replace("\n * \n", "\n *\n") + "\n */"


_C_BEGIN = """#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __FAST_MATH__
#error "{name}: compile without -ffast-math: nan, infinities and the order of sums matter here"
#endif
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif"""


# -- Python ----------------------------------------------------------------------------------------


class _PythonFormulas(_Formulas):
    """How formulas are spelled in Python."""

    def __init__(self, prefix):
        super().__init__(prefix)
        self.translated = {}  # pieces as Python

    def own(self, name):
        return f"_{name}"

    def constant(self, value):
        return self.number(float(value))

    def number(self, x):
        return _python_number(x)

    def choice(self, test, then, otherwise):
        return f"({then} if {test} else {otherwise})"

    def call(self, function, arguments):
        if function in ("mod", "floordiv"):  # Python's own
            return f"({arguments[0]} {'%' if function == 'mod' else '//'} {arguments[1]})"
        return super().call(function, arguments)

    def library(self, function, arguments):
        if function in ("floor", "ceil"):  # Python's give ints, which have no -0
            return f"math.copysign(math.{function}({arguments[0]}), {arguments[0]})"
        return f"{self.named(function)}({', '.join(arguments)})"

    def named(self, name):
        if name not in MATH:
            raise Unknown(name)
        return MATH[name]

    def function(self, name, text):
        return f"def {self.own(name)}(a):\n    return {text}"

    def piece(self, name):
        """What a name in portable.h is in Python; a piece is translated."""
        if name in _constants():
            return self.number(_constants()[name])
        if name in MATH or name not in _pieces():
            return self.named(name)
        short = re.sub(r"^(mg|k)_", "", name)
        if name not in self.translated:
            self.translated[name] = ""  # it may call itself
            try:
                self.translated[name] = translate(_pieces()[name].text, self.piece)
            except Unknown:
                raise Unknown(short) from None
        return self.own(short)

    def helpers(self):
        return "\n\n\n".join([self.translated[name] for name in _pieces() if name in self.translated] + list(self.ops.values()))


def _python_number(x):
    if math.isnan(x):
        return "math.nan"
    if math.isinf(x):
        return "math.inf" if x > 0 else "(-math.inf)"
    return f"({x!r})" if str(x).startswith("-") else repr(x)


class _PythonFile(_File):
    """A program as Python source: a line for each value."""

    def __init__(self, program, name, gradient):
        super().__init__(program, name, gradient)
        self.formulas = _PythonFormulas(name)
        self.names = {}  # of places
        for letter, places in (("x", self.inputs), ("p", self.captured)):
            self.names |= {place: f"{letter}{k}" for k, place in enumerate(places)}

    def value(self, place):
        if isinstance(place, float):
            return _python_number(place)
        return self.names.get(place) or (f"t{place}" if self.computed[place] else _python_number(self.start[place]))

    def values(self, step, m):
        return [self.value(place) for place in step.places(m, step.n, self.index)]

    # steps: lines with the place that they give a value, of each kind

    def lines(self, steps):
        """(place, line) for each value of these steps."""
        for step in steps:
            try:
                yield from getattr(self, f"lines_{step.kind}")(step)
            except Unknown as unknown:
                raise self.refusal(unknown, step.op) from None

    def refusal(self, unknown, op):
        return ValueError(
            f"to_python: expected operations whose functions Python's math module has, got {op.lstrip('_')}, which calls "
            f"{unknown.args[0]}; use to_c"
        )

    def each(self, step, text, names):
        n = step.n if step.is_wide else 1
        used = [(name, step.places(m, n, self.index)) for name, m in names.items() if name in _names(text)]
        for j in range(n):
            known = {name: self.start[places[j]] for name, places in used if not self.computed[places[j]]}
            yield step.y + j, _bare(self.formulas.write(text, {name: self.value(places[j]) for name, places in used}, known))

    def lines_value(self, step):
        row = _table().get(step.op)
        if row is None:
            xs, ys = (self.sequence(self.values(step, m)) for m in range(2))
            bias = f"{self.value(step.at[2])} + " if step.op == "affine" else ""
            yield step.y, bias + self.formulas.call("k_dot", [xs, ys, str(step.n)])
        elif row["kind"] == "nary":
            yield from self.over_range(step, row["value"])
        else:
            yield from self.each(step, row["value"], {"a": 0, "b": 1, "m": 2})

    def lines_slope_a(self, step):
        return self.each(step, _table()[step.op]["da"], {"a": 0, "b": 1, "y": 2})

    def lines_slope_b(self, step):
        return self.each(step, _table()[step.op]["db"], {"a": 0, "b": 1, "y": 2})

    def lines_helper(self, step):
        return self.each(step, f"{step.op}(a)", {"a": 0})

    def lines_aux(self, step):
        return self.over_range(step, _table()[step.op]["aux"])

    def lines_slope_n(self, step):
        a, b, c = map(self.value, step.at)
        names = {"x": a, "y": b, "aux": c, "n": f"{step.count}.0"}
        yield step.y, _bare(self.formulas.write(_table()[step.op]["da"], names, {"i": step.i, "k": step.k}))

    def over_range(self, step, text):
        names = {"y": self.value(step.at[2]), "n": str(step.n), "k": str(step.k)}
        if "xs" in _names(text):
            names["xs"] = self.sequence(self.values(step, 0))
        yield step.y, _bare(self.formulas.write(text, names))

    def lines_chain(self, step):
        n, links, begins = step.n, step.count, step.where[2] == "none"
        factors = [step.links(m, self.index) for m in range(2 if step.op == "mul" else 1)]
        starts = [None] * n if begins else step.places(2, n, self.index)
        run = step.run if step.where[0] == "runs" else 1
        for j in range(n):
            terms = [] if begins else [self.value(starts[j])]
            for k in range(links):
                places = [at[j // run * links + k] + step.strides[m] * (j % run) for m, at in enumerate(factors)]
                terms.append(_product([self.value(place) for place in places]))
            yield step.y + j, " + ".join(terms[:_LINKS])
            for k in range(_LINKS, len(terms), _LINKS):
                yield step.y + j, " + ".join([f"t{step.y + j}", *terms[k : k + _LINKS]])

    def sequence(self, names):
        text = f"[{', '.join(names)}]"
        return text if len(text) < 90 else f"[\n{_wrapped(names, ' ' * 8)}\n    ]"

    # the file

    def body(self, lines, guards):
        """Lines of Python, with each comparison as soon as its values are there."""
        lines = list(lines)
        latest = {place: k for k, (place, _) in enumerate(lines)}
        checks = {}
        for op, left, right, outcome in guards:
            right = 0.0 if right is None else right
            test = f"{self.value(left)} {_COMPARE[op]} {self.value(right)}"
            at = max(latest.get(left, -1), latest.get(right, -1))
            checks.setdefault(at, []).append(self.check(f"not {test}" if outcome else test, (op, left, right, outcome)))
        found = checks.get(-1, [])
        for k, (place, text) in enumerate(lines):
            found.append(f"t{place} = {text}")
            found += checks.get(k, [])
        return found

    def check(self, test, guard):
        return (
            f'if {test}:\n        raise ValueError(\n            "{self.name}: {self.comparison(guard)} when this was recorded, '
            f'and is not here: record the function for these numbers"\n        )'
        )

    def text(self):
        name, parameters = self.name, [v.data for v in self.program.captured]
        arguments = ", ".join(["x"] * bool(self.inputs) + [f"p={name}_parameters"] * bool(parameters))
        results = self.body(self.lines(self.phases[0]), self.guards)
        outputs = [self.value(x) for x in self.outputs]
        result = outputs[0] if len(outputs) == 1 else f"[\n{_wrapped(outputs, ' ' * 8)}\n    ]"
        parts = [self.function(f"{name}({arguments})", self.said(), [*results, f"return {result}"])]
        if self.gradient:
            n = len(self.inputs)
            back = self.body(self.lines(self.phases[1]), ())
            slopes = [self.sequence(list(map(self.value, x))) for x in (self.adjoints[:n], self.adjoints[n:]) if x]
            said = (
                f"{name}(), and the lists of its derivatives by"
                + " x" * (n > 0)
                + (" and" * (n > 0) + " p") * (len(self.adjoints) > n)
            )
            parts.append(
                self.function(
                    f"{name}_gradient({arguments})", said + ".", [*results, *back, f"return {', '.join([result, *slopes])}"]
                )
            )
        helpers = self.formulas.helpers()
        numbers = [f"{name}_parameters = (\n{_wrapped(map(_python_number, parameters))}\n)"] * bool(parameters)
        return "\n\n\n".join([*self.header(numbers), *[helpers] * bool(helpers), *parts]) + "\n"

    def header(self, numbers):
        function = _plain(repr(self.program.name))
        title = f'"""{self.name}: a program that mingrad {__version__} recorded of the function {function}."""'
        return ["\n\n".join([title, "import math", *numbers])]

    def said(self):
        about = self.about()
        first = "The result." if len(self.outputs) == 1 else "The list of results."
        return "\n".join([first, "", *[f"    {line}" for line in about], "    "]) if about else first

    def function(self, head, said, lines):
        unpacked = []
        for letter, places in (("x", self.inputs), ("p", self.captured)):
            if places:
                names = [f"{letter}{k}" for k in range(len(places))]
                unpacked.append(f"{self.sequence(names)} = {letter}")
        return f'def {head}:\n    """{said}"""\n' + _indented([*unpacked, *lines])
