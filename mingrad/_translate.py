"""The functions of csrc/portable.h as Python: translates the C they are written in, and no other (mingrad/export.py).

What it knows: functions of doubles and arrays of them; declarations, assignments, if, for, while, return; expressions without
pointers. Whole numbers become floats where C makes doubles of them, so that -0.0 and results are the same.
"""

import re

# C's functions and names that Python's math has, and how they are spelled.
MATH = {
    **{f: f"math.{f}" for f in (
        "acos acosh asin asinh atan atan2 atanh copysign cos cosh erf erfc exp expm1 fabs fmod isfinite isinf isnan ldexp log "
        "log10 log1p log2 pow sin sinh sqrt tan tanh exp2 cbrt").split()},
    "INFINITY": "math.inf",
    "NAN": "math.nan",
    # mingrad's functions of these names give what Python's do, to the bit
    "mg_power": "math.pow",
    "mg_hypot": "math.hypot",
    "mg_lgamma": "math.lgamma",
}  # fmt: skip

_TOKEN = re.compile(
    r"\s+|(?P<number>0x[0-9a-fA-F]*\.?[0-9a-fA-F]*p[+-]?\d+|\d+\.?\d*(?:e[+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>\+\+|--|[-+*/|&]=|<=|>=|==|!=|&&|\|\||[-+*/%<>=!&|?:;,(){}\[\]])"
)
# Of binary operators how tightly they hold, in C, and Python's spelling with how tightly that holds.
_BINARY = {
    "||": (1, "or", 1), "&&": (2, "and", 2), "|": (3, "|", 5), "&": (4, "&", 6), "==": (5, "==", 4), "!=": (5, "!=", 4),
    "<": (6, "<", 4), "<=": (6, "<=", 4), ">": (6, ">", 4), ">=": (6, ">=", 4), "+": (7, "+", 7), "-": (7, "-", 7),
    "*": (8, "*", 8), "/": (8, "/", 8),
}  # fmt: skip
_CHOICE, _NOT, _COMPARISON, _UNARY, _ATOM = 0, 3, 4, 9, 10


class Unknown(Exception):
    """The text calls what Python has not got. Its argument is the name."""


def translate(text, rename):
    """One piece of C as Python. rename: of a function's name in the text its name in Python."""
    comment = re.match(r"/\* (.*?) \*/\n", text, re.DOTALL)
    lines = [f"# {line.strip()}" for line in comment[1].splitlines()] if comment else []
    return "\n".join(lines + _Translation(text, rename).function())


class _Translation:
    def __init__(self, code, rename):
        self.rename = rename
        self.types = {}  # of variables: 'double', 'int'
        self.tokens = [m for m in _TOKEN.finditer(re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)) if m.lastgroup]
        self.at = 0

    # tokens

    def peek(self):
        return self.tokens[self.at].group()

    def next(self, *expected):
        text = self.peek()
        if expected and text not in expected:
            raise SyntaxError(f"expected {' or '.join(expected)}, got {text!r}")
        self.at += 1
        return text

    def take(self, text):
        if self.peek() == text:
            self.at += 1
            return True
        return False

    def type(self):
        """The type that begins here, or None."""
        while self.peek() in ("static", "inline", "const"):
            self.at += 1
        if self.peek() in ("double", "int", "size_t"):
            return "double" if self.next() == "double" else "int"
        return None

    # functions and statements

    def function(self):
        self.type()
        name, parameters = self.rename(self.next()), []
        self.next("(")
        while not self.take(")"):
            kind = self.type()
            self.take("*")
            parameters.append(self.next())
            self.types[parameters[-1]] = kind
            self.take(",")
        return [f"def {name}({', '.join(parameters)}):", *self.indented(self.statement())]

    def indented(self, lines):
        return [f"    {line}" for line in lines or ["pass"]]

    def statement(self):
        if self.take("{"):
            lines = []
            while not self.take("}"):
                lines += self.statement()
            return lines
        if self.take("if"):
            lines = [f"if {self.condition()}:", *self.indented(self.statement())]
            if self.take("else"):
                lines += ["else:", *self.indented(self.statement())]
            return lines
        if self.take("while"):
            return [f"while {self.condition()}:", *self.indented(self.statement())]
        if self.take("for"):
            return self.loop()
        if self.take("return"):
            lines = [f"return {self.double(self.expression())}"]
        else:
            kind = self.type()
            lines = self.declaration(kind) if kind else self.assignment()
        self.next(";")
        return lines

    def condition(self):
        self.next("(")
        text = self.expression()[0]
        self.next(")")
        return text

    def declaration(self, kind):
        lines = []
        while True:
            name = self.next()
            self.types[name] = kind
            if self.take("["):
                self.expression()
                self.next("]")
            if self.take("="):
                lines.append(f"{name} = {self.value(kind)}")
            if not self.take(","):
                return lines

    def value(self, kind):
        if self.take("{"):
            items = []
            while not self.take("}"):
                items.append(self.value(kind))
                self.take(",")
            return f"[{', '.join(items)}]"
        found = self.expression()
        return self.double(found) if kind == "double" else found[0]

    def assignment(self):
        found = self.expression()
        if found[0].startswith("frexp("):  # frexp(x, &exponent), for the exponent
            number, _, exponent = found[0][6:-1].rpartition(", ")
            return [f"{exponent} = math.frexp({number})[1]"]
        sign = self.next("=", "+=", "-=", "*=", "/=", "|=", "++", "--")
        if sign in ("++", "--"):
            return [f"{found[0]} {sign[0]}= 1"]
        return [f"{found[0]} {sign} {self.value(self.types[found[0].partition('[')[0]])}"]

    def loop(self):
        self.next("(")
        start = [] if self.peek() == ";" else self.assignment()
        self.next(";")
        test = self.expression()[0]
        self.next(";")
        step = [] if self.peek() == ")" else self.assignment()
        self.next(")")
        body = self.statement()
        name, _, first = "".join(start).partition(" = ")
        bound = re.fullmatch(rf"{name} < (\w+)", test)
        if step == [f"{name} += 1"] and bound:
            first = "" if first == "0" else f"{first}, "
            return [f"for {name} in range({first}{bound[1]}):", *self.indented(body)]
        return [*start, f"while {test}:", *self.indented(body + step)]

    # expressions: (text, how tightly it holds, 'double' or 'int'; 'literal' for whole numbers as written)

    def double(self, found):
        """The text of an expression whose value becomes a double."""
        text, hold, kind, *parts = found
        if parts:
            test, then, otherwise = parts
            return f"{self.double(then)} if {test} else {self.double(otherwise)}"
        if kind == "literal":
            return f"{text}.0"
        return f"float({text})" if hold in (_COMPARISON, _NOT) else text

    def expression(self):
        test = self.binary(1)
        if not self.take("?"):
            return test
        then = self.expression()
        self.next(":")
        otherwise = self.expression()
        text = f"{then[0]} if {self.held(test, 1)} else {otherwise[0]}"
        return text, _CHOICE, then[2], self.held(test, 1), then, otherwise

    def held(self, found, hold):
        return found[0] if found[1] >= hold else f"({found[0]})"

    def binary(self, least):
        left = self.unary()
        while self.peek() in _BINARY and _BINARY[self.peek()][0] >= least:
            holds, sign, hold = _BINARY[self.next()]
            right = self.binary(holds + 1)
            inner = hold + (hold == _COMPARISON)  # Python's comparisons chain, C's do not
            kind = "double" if "double" in (left[2], right[2]) else "int"
            left = f"{self.held(left, inner)} {sign} {self.held(right, hold + 1)}", hold, kind
        return left

    def unary(self):
        if self.take("-"):
            found = self.unary()
            return f"-{self.held(found, _UNARY)}", _UNARY, found[2]
        if self.take("!"):
            return f"not {self.held(self.unary(), _COMPARISON)}", _NOT, "int"
        if self.take("&"):
            return self.unary()
        if self.peek() == "(" and self.tokens[self.at + 1].group() == "double":
            self.at += 2
            self.next(")")
            return self.unary()[0], _ATOM, "double"
        return self.postfix()

    def postfix(self):
        token = self.tokens[self.at]
        self.at += 1
        text = token.group()
        if text == "(":
            found = self.expression()
            self.next(")")
            return found if found[1] == _ATOM else (f"({found[0]})", _ATOM, found[2])
        if token.lastgroup == "number":
            if text.startswith("0x"):
                return repr(float.fromhex(text)), _ATOM, "double"
            return text, _ATOM, "literal" if text.isdigit() else "double"
        if self.take("["):
            at = self.expression()[0]
            self.next("]")
            return f"{text}[{at}]", _ATOM, "double"
        if self.take("("):
            arguments = []
            while not self.take(")"):
                arguments.append(self.expression()[0])
                self.take(",")
            function = text if text == "frexp" else self.rename(text)
            return f"{function}({', '.join(arguments)})", _ATOM, "double"
        return (text, _ATOM, self.types[text]) if text in self.types else (self.rename(text), _ATOM, "double")
