"""A graph as JavaScript: of each node a function for its value and one for its partials, for the explorer's page.

The formulas are the op table's and the functions they call those of csrc/portable.h, whose texts the core holds. Here is how
they are spelled in JavaScript, as mingrad/export.py has it for C and Python, and what C's library has that Math lacks.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ..export import _constants, _Formulas, _names, _table

# C's functions and names that JavaScript has, and how they are spelled.
MATH = {
    **{f: f"Math.{f}" for f in (
        "acos acosh asin asinh atan atan2 atanh cbrt ceil cos cosh exp expm1 floor log log10 log1p log2 pow sin sinh sqrt tan "
        "tanh").split()},
    "INFINITY": "Infinity",
    "NAN": "NaN",
    "fabs": "Math.abs",
    "isfinite": "Number.isFinite",
    "isnan": "Number.isNaN",
}  # fmt: skip

# C's functions that JavaScript has not got. Those of a text come before it. frexp() gives the exponent alone. erf is its series
# (DLMF 7.6.2), whose terms have one sign; beyond 1.5 erfc is its continued fraction (DLMF 7.9.1), from the inside outwards.
LACKING = {
    "isinf": "const isinf = (x) => Math.abs(x) === Infinity;",
    "fmod": "const fmod = (x, y) => x % y;",
    "exp2": "const exp2 = (x) => Math.pow(2, x);",
    "copysign": "const copysign = (x, y) => (y < 0 || Object.is(y, -0) ? -1 : 1) * Math.abs(x);",
    "round": "const round = (x) => Math.sign(x) * Math.round(Math.abs(x));",
    "ldexp": "const ldexp = (x, n) => x * Math.pow(2, Math.trunc(n / 2)) * Math.pow(2, n - Math.trunc(n / 2));",
    "frexp": """function frexp(x) {
    let n = Math.floor(Math.log2(x)) + 1;
    while (ldexp(x, -n) >= 1) n++;
    while (ldexp(x, -n) < 0.5) n--;
    return n;
}""",
    "tgamma": """function tgamma(n) {
    let product = 1;
    for (let k = 2; k < n; k++) product *= k;
    return product;
}""",
    "erf": """function erf(x) {
    if (!(Math.abs(x) < 1.5)) return Number.isNaN(x) ? x : Math.sign(x) * (1 - erfc(Math.abs(x)));
    let term = x, sum = x;
    for (let n = 1; n < 60; n++) sum += term *= (2 * x * x) / (2 * n + 1);
    return TWO_INV_SQRTPI * mg_gauss(x) * sum;
}""",
    "erfc": """function erfc(x) {
    if (!(x >= 1.5)) return 1 - erf(x);
    let rest = x;
    for (let n = 150; n > 0; n--) rest = x + n / 2 / rest;
    return (0.5 * TWO_INV_SQRTPI * mg_gauss(x)) / rest;
}""",
    "mg_others": """function mg_others(xs) {
    return xs.map((_, i) => xs.reduce((product, x, j) => (j === i ? product : product * x), 1));
}""",
}


class JavaScript(_Formulas):
    """How formulas are spelled in JavaScript. A graph's values stand in the array v."""

    def __init__(self) -> None:
        super().__init__("mg")
        self.known: dict[str, float] = {}

    def constant(self, value: float) -> str:
        return self.number(float(value))

    def number(self, x: float) -> str:
        if math.isnan(x):
            return "NaN"
        text = repr(x).removesuffix(".0").replace("inf", "Infinity")
        return f"({text})" if text.startswith("-") else text

    def library(self, function: str, arguments: list[str]) -> str:
        return f"{MATH.get(function, function)}({', '.join(arguments)})"

    def function(self, name: str, text: str) -> str:
        return f"function {self.own(name)}(a) {{\n    return {text};\n}}"

    def with_helpers(self, text: str) -> str:
        """A text of formulas behind the functions that they have asked for, and what those call."""
        found = [_from_c(piece.text) for piece in self.needed()] + list(self.ops.values())
        lacking: dict[str, str] = {}
        while True:
            whole = "\n".join([*found, *lacking.values(), text])
            fresh = {name: LACKING[name] for name in LACKING if name not in lacking and re.search(rf"\b{name}\(", whole)}
            if "erf" in fresh or "erfc" in fresh:
                self.piece("mg_gauss")
                found = [_from_c(piece.text) for piece in self.needed()] + list(self.ops.values())
            if not fresh:
                break
            lacking |= fresh
        parts = [*lacking.values(), *found]
        for name, value in _constants().items():
            parts = [re.sub(rf"\b{name}\b", repr(value), part) for part in parts]
        return "\n".join([*parts, text])

    # a graph, as _core._graph() gives it

    def graph(self, graph: list[Any]) -> str:
        """Source of `const rows`: of each node [value, partials], two functions of v, or null for a leaf. A custom function's
        code is Python's: where a graph has one, rows is null. What helpers() gives has to stand before it."""
        if any(row[1] == "custom" for row in graph):
            return "const rows = null;"
        rows = [f"    {self.row(graph, number)},\n" for number in range(len(graph))]
        return f"const rows = [\n{''.join(rows)}];"

    def row(self, graph: list[Any], number: int) -> str:
        _, name, operands, constant, index, _ = graph[number]
        if name == "leaf":
            return "null"
        y, xs = f"v[{number}]", [f"v[{k}]" for k in operands]
        half = len(xs) // 2
        if name in ("dot", "affine", "linear"):
            bias = xs[2 * half :]
            value = " + ".join([*bias, self.call("k_dot", [_list(xs[:half]), _list(xs[half : 2 * half]), str(half)])])
            return f"[(v) => {value}, (v) => {_list([*xs[half : 2 * half], *xs[:half], *['1'] * len(bias)])}]"
        row = _table()[name]
        if row["kind"] == "nary":
            return f"[(v) => {self.over(row['value'], row, y, xs, index)}, {self.partials_of_range(row, y, xs, index)}]"
        names, known = dict(zip("ab", xs)), {}
        if constant is not None:
            place, x = constant
            names = {"ab"[place]: self.number(x), "ba"[place]: xs[0]}
            known = {"ab"[place]: x}
        if row["kind"] == "linked":
            _, inner, its_operands, _, its_index, _ = graph[operands[1]]
            names["m"] = self.over(_table()[inner]["aux"], _table()[inner], xs[1], [f"v[{k}]" for k in its_operands], its_index)
        slopes = [row[slope] for slope, letter in (("da", "a"), ("db", "b")) if letter in names and letter not in known]
        partials = [self.write(slope, names | {"y": y}, known) for slope in slopes]
        return f"[(v) => {self.write(row['value'], names, known)}, (v) => {_list(partials)}]"

    def over(self, text: str, row: dict[str, str], y: str, xs: list[str], index: int) -> str:
        """A formula over the operands of a row: its value, or its aux."""
        return self.write(text, {"xs": _list(xs), "n": str(len(xs)), "k": str(index), "y": y})

    def partials_of_range(self, row: dict[str, str], y: str, xs: list[str], index: int) -> str:
        if row["name"] == "prod":
            return f"(v) => mg_others({_list(xs)})"
        used = _names(row["da"])
        names = {"x": "x", "i": "i", "y": y, "n": str(len(xs)), "k": str(index), "aux": "aux"}
        each = f"{_list(xs)}.map((x, i) => {self.write(row['da'], names)})"
        if "aux" not in used:
            return f"(v) => {each}"
        return f"(v) => {{ const aux = {self.over(row['aux'], row, y, xs, index)}; return {each}; }}"


def _list(texts: list[str]) -> str:
    return f"[{', '.join(texts)}]"


def _from_c(text: str) -> str:
    """A piece of csrc/portable.h as JavaScript, which is C's syntax but for types, casts, initialisers of arrays, hexadecimal
    numbers and frexp()'s pointer. Where C makes a number of a comparison, so does +."""
    text = re.sub(r"/\*.*?\*/\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"0x[0-9a-f]*\.?[0-9a-f]*p[+-]?\d+", lambda found: repr(float.fromhex(found[0])), text)
    text = re.sub(r"\b(?:(?:static|inline) )*double (\w+)\(([^)]*)\)\s*\{", _head, text)
    text = re.sub(r"\((?:double|int)\)", "", text)
    text = re.sub(r"\b(?:(?:static|const) )*(?:double|int|size_t) ", "let ", text)
    text = re.sub(r"(\w+)\[\d*\] = \{([^}]*)\}", r"\1 = [\2]", text)
    text = re.sub(r"frexp\((\w+), &(\w+)\)", r"\2 = frexp(\1)", text)
    text = re.sub(r"return ([^;]+);", r"return +(\1);", text)
    text = re.sub(r"\bk_(?=\w)", "mg_", text)
    return re.sub(r"\b[A-Za-z]\w*\b", lambda found: MATH.get(found[0], found[0]), text)


def _head(found: re.Match[str]) -> str:
    parameters = re.findall(r"(\w+)(?:,|$)", found[2])
    return f"function {found[1]}({', '.join(parameters)}) {{"
