"""``python -m mingrad draw "x**2*sin(y)" x=2 y=3``: the graph of an expression with its values and gradients.

The expression is data: Python's own parser makes a tree of it, and of that tree only numbers, the given names, arithmetic and
the functions in FUNCTIONS are computed. All numbers become floats, so that 9**9**9 overflows at once.
"""

from __future__ import annotations

import argparse
import ast
import math
import operator
import os
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any

from .. import _core, engine
from ..engine import Variable
from ..visualize.text import printable, tree

LENGTH, DEPTH = 1000, 200  # of an expression, in characters and in parentheses, signs and operators inside each other
FORMATS = ("text", "svg", "html", "dot", "png")
ENDINGS = {".txt": "text", **{f".{name}": name for name in FORMATS[1:]}}

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
# Name: (function, how many operands at least, at most). Those of the op table, and those with a setting.
FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    name: (getattr(engine, name), count, count)
    for row in _core._ops()
    for name, count in (
        (row["name"], {"unary": 1, "binary": 2}.get(row["kind"], 0)),
        (row["alias"], 1 + (row["kind"] == "binary")),
    )
    if count and name in engine.__all__
}
FUNCTIONS |= {name: (getattr(engine, name), 1, 2) for name in ("leaky_relu", "elu")}
FUNCTIONS |= {name: (getattr(engine, name), 2, LENGTH) for name in ("max", "min")}
FUNCTIONS |= {"pow": (engine.pow, 2, 2), "clamp": (engine.clamp, 2, 3)}

ALLOWED = textwrap.fill(
    f"allowed are numbers, the names that are given values, + - * / // % **, parentheses, and {' '.join(sorted(FUNCTIONS))}",
    100,
)


class Refused(Exception):
    """An expression or a value that is not computed, and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw the graph of an expression, with values and gradients: as text, or into a file."
    parser.epilog = f"""{ALLOWED[0].upper()}{ALLOWED[1:]}. The formats svg, html and png need what the extra mingrad[viz] adds. An
expression that begins with a minus sign is written after "--": python -m mingrad draw -o z.svg -- "-x" x=2"""
    parser.add_argument("expression", help='such as "x**2 * sin(y)"')
    parser.add_argument("values", nargs="*", metavar="name=number", help="the value of each name in it, such as x=2")
    parser.add_argument("--format", choices=FORMATS, help="what to draw (text, or by the file's ending)")
    parser.add_argument("-o", dest="path", metavar="FILE", help="a file to write to instead of the terminal")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Draw; return 0, or 1 if a file cannot be written or a package is missing."""
    path: str | None = options.path
    form = options.format or "text"
    if path is not None and options.format is None:
        form = ENDINGS.get(os.path.splitext(path)[1].lower(), "")
        if not form:
            parser.error(f"-o {printable(path, 80)}: expected a file that ends in {' '.join(ENDINGS)}, or a --format")
    if form == "png" and path is None:
        parser.error("--format png is no text: write it to a file, -o FILE.png")
    try:
        root = evaluate(options.expression, values(options.values))
    except Refused as error:
        parser.error(str(error))
    root.backward()
    try:
        if form == "text":
            drawing: object = tree(root, ascii=False if path is not None else None)
        else:
            from ..visualize import drawing as pictures

            make: Any = pictures.draw  # its overloads know formats that are written in the code
            drawing = make(root, form, path=path)
        if path is None:
            sys.stdout.write(f"{drawing}\n")
        elif form == "text":
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"{drawing}\n")
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        print(
            f"mingrad: the terminal's encoding, {error.encoding}, has not all of it: write it to a file, -o FILE",
            file=sys.stderr,
        )
        return 1
    except ValueError as error:
        parser.error(str(error))
    except (ImportError, OSError) as error:
        print(f"mingrad: {error}", file=sys.stderr)
        return 1
    if path is not None:
        print(f"{printable(path, 200)}: {form}")
    return 0


def values(texts: list[str]) -> dict[str, Variable]:
    """The Variables that ``name=number`` arguments say. Raises Refused."""
    found: dict[str, Variable] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = unicodedata.normalize("NFKC", name.strip())  # as Python's parser does
        if not equals or not name.isidentifier():
            raise Refused(f"expected name=number, such as x=2, got {printable(text)!r}")
        if name in FUNCTIONS:
            raise Refused(f"{name}=...: {name} is a function here, choose another name")
        if name in found:
            raise Refused(f"{printable(name)} is given two values")
        try:
            number = float(value)
        except ValueError:
            raise Refused(f"{printable(name)}=...: expected a number, got {printable(value)!r}") from None
        if not math.isfinite(number):
            raise Refused(f"{printable(name)}=...: expected a finite number, got {printable(value)!r}")
        found[name] = Variable(number, label=name)
    return found


def evaluate(expression: str, names: dict[str, Variable]) -> Variable:
    """The Variable that an expression of these names gives. Raises Refused, which says what is allowed."""
    expression = expression.strip()
    if len(expression) > LENGTH:
        raise Refused(f"the expression has {len(expression):,} characters, at most {LENGTH:,} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strings' escapes and the like: there are none in what is allowed
            body = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        what = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply" if not str(error) else str(error)
        raise Refused(f"{printable(expression, 60)!r} is no expression: {what}") from None
    level, deep = [body], 0
    while level:
        deep += 1
        if deep > DEPTH:
            raise Refused(f"the expression is more than {DEPTH} operations deep")
        level = [part for node in level for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    used: set[str] = set()
    try:
        result = _value(body, expression, names, used)
    except (ArithmeticError, ValueError) as error:
        raise Refused(str(error).partition("; with mingrad.errstate")[0]) from None
    unused = sorted(set(names) - used)
    if unused:
        raise Refused(f"{', '.join(map(printable, unused))}: given, but not in the expression")
    if not isinstance(result, Variable):
        raise Refused(f'the expression has no name in it, it is just {result!r}: name a number, such as x in "x**2" x=3')
    return result


def _value(node: ast.expr, expression: str, names: dict[str, Variable], used: set[str]) -> Any:
    """The value of a syntax tree: a float or a Variable."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        number = float(node.value)  # raises OverflowError for an int that is too large
        if math.isfinite(number):
            return number
        raise OverflowError("a number in the expression is too large for a float")
    if isinstance(node, ast.Name) and node.id in names:
        used.add(node.id)
        return names[node.id]
    if isinstance(node, ast.Name):
        known = node.id in FUNCTIONS
        raise Refused(
            f"{printable(node.id)} {'is a function: write its operands behind it' if known else 'has no value: add name=number'}"
        )
    if isinstance(node, (ast.BinOp, ast.UnaryOp)) and type(node.op) in OPERATORS:
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.operand]
        operands = [_value(part, expression, names, used) for part in parts]
        if any([isinstance(x, Variable) for x in operands]):
            return OPERATORS[type(node.op)](*operands)
        return OPERATORS[type(node.op)](Variable(operands[0], requires_grad=False), *operands[1:]).data  # with its errors
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        function, least, most = FUNCTIONS[node.func.id]
        if not node.keywords and not any(isinstance(part, ast.Starred) for part in node.args):
            if not least <= len(node.args) <= most:
                expected = least if least == most else f"{least} or more" if most == LENGTH else f"{least} to {most}"
                raise Refused(f"{node.func.id} takes {expected} operand{'s' * (most > 1)}, got {len(node.args)}")
            return function(*[_value(part, expression, names, used) for part in node.args])
    text = ast.get_source_segment(expression, node) or expression
    raise Refused(f"{printable(text, 60)!r} is not computed here;\n{ALLOWED}")
