"""Value: a scalar with automatic differentiation in pure Python, in micrograd's manner.

What mingrad is compared with in microgpt.py: every operation keeps its operands and their partials
in tuples, and backward() sorts the graph, with a stack of its own so that no depth is too much. It
has the operations that a small network needs and checks nothing.
"""

import math


class Value:
    __slots__ = ("data", "grad", "operands", "partials")

    def __init__(self, data, operands=(), partials=()):
        self.data = data
        self.grad = 0.0
        self.operands = operands
        self.partials = partials  # of data, one for each operand

    def __add__(self, other):
        if isinstance(other, Value):
            return Value(self.data + other.data, (self, other), (1.0, 1.0))
        return Value(self.data + other, (self,), (1.0,))

    def __mul__(self, other):
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other), (other.data, self.data))
        return Value(self.data * other, (self,), (other,))

    def __sub__(self, other):
        if isinstance(other, Value):
            return Value(self.data - other.data, (self, other), (1.0, -1.0))
        return Value(self.data - other, (self,), (1.0,))

    def __truediv__(self, other):
        if isinstance(other, Value):
            result = self.data / other.data
            return Value(result, (self, other), (1.0 / other.data, -result / other.data))
        return Value(self.data / other, (self,), (1.0 / other,))

    def __pow__(self, exponent):
        power = self.data ** (exponent - 1)
        return Value(power * self.data, (self,), (exponent * power,))

    def __neg__(self):
        return Value(-self.data, (self,), (-1.0,))

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self):
        return Value(math.log(self.data), (self,), (1.0 / self.data,))

    def relu(self):
        return Value(max(self.data, 0.0), (self,), (1.0 if self.data > 0.0 else 0.0,))

    def backward(self):
        """Add the partials of this value to the grad of each value it was made from."""
        order, seen, todo = [], set(), [(self, False)]
        while todo:
            value, is_behind = todo.pop()
            if is_behind:
                order.append(value)
            elif value not in seen:
                seen.add(value)
                todo.append((value, True))
                for operand in value.operands:
                    if operand not in seen:
                        todo.append((operand, False))
        self.grad = 1.0
        for value in reversed(order):
            for operand, partial in zip(value.operands, value.partials):
                operand.grad += partial * value.grad
