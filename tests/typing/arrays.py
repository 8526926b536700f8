"""What type checkers say of NumPy's scalars and arrays beside Variables; see usage.py. NumPy's own types are needed."""

from typing import Any

import numpy as np
from typing_extensions import assert_type

import mingrad
from mingrad import Variable, VariableList, nn, tensor

v = Variable(np.float32(1.0))
xs = tensor(np.array([1.0, 2.0]))
array = np.array([1.0, 2.0])

assert_type(v * np.float64(2.0), Variable)
assert_type(v * np.float32(2.0), Variable)
assert_type(v - np.int64(2), Variable)
assert_type(v ** np.float32(2.0), Variable)
assert_type(np.float32(2.0) * v, Variable)
assert_type(np.float64(2.0) / v, Variable)
assert_type(np.int64(2) + v, Variable)
assert_type(v < np.float32(2.0), bool)
assert_type(v.maximum(np.float32(2.0)), Variable)
assert_type(mingrad.exp(np.float32(2.0)), float)
assert_type(mingrad.hypot(np.int64(3), v), Variable)
v.data = np.float32(1.0)

assert_type(xs, VariableList)
assert_type(xs * array, VariableList)
assert_type(v * array, Any)
assert_type(nn.Linear(2, 3)(array), Any)
mingrad.sum(array)
mingrad.vmap(mingrad.exp)(array)
