"""Types of mingrad._complex. Values and slopes of the ops are looked at by tests alone, and not here."""

from typing import Any

from .engine import Variable

STEP: float

class Recording:
    values: list[float]
    rows: list[tuple[str, tuple[int, ...], tuple[int, float] | None, int | None]]
    inputs: list[int | None]
    outputs: list[int | None]
    results: list[float]
    shape: tuple[Any, ...]
    constants: list[tuple[Variable | float, str]]
    def __init__(self, outputs: list[Variable | float], inputs: list[Variable]) -> None: ...

class ComplexGraph:
    inputs: list[int | None]
    outputs: list[int | None]
    nodes: list[Any]
    ties: bool
    def __init__(self, recording: Recording) -> None: ...
    def first(self, k: int, side: float) -> list[float] | None: ...
    def second(self, k: int, side: float) -> list[list[float]]: ...
    def first_bounds(self) -> list[list[tuple[float, float]]]: ...
    def second_bounds(self, k: int) -> list[list[tuple[float, float]]]: ...
