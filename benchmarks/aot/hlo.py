"""The text of a compiled program, read into named computations of instructions.

`compiled.as_text()` is one HLO module: computations, each a list of instructions like

    %sum.3 = f32[8,128]{1,0:T(8,128)S(1)} add(%x, %y), metadata={...}

which are split here into name, shape, opcode, operands and attributes. Other modules of
this package interpret them.
"""

import math
import re
from typing import NamedTuple

BITS = {
    "pred": 8,
    **{f"{sign}{bits}": bits for sign in "su" for bits in (2, 4, 8, 16, 32, 64)},
    **{"bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128},
}
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
START = re.compile(r"^\s+(ROOT )?%([\w.\-~]+) = ")
NAME = re.compile(r"%([\w.\-~]+)")
HEADER = re.compile(r"^(ENTRY )?%([\w.\-~]+) \(")
COMMENT = re.compile(r"/\*.*?\*/")


class Instruction(NamedTuple):
    """One line of a computation; `inside` is the text between its parentheses."""

    name: str
    shape: str
    opcode: str
    inside: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        return NAME.findall(self.inside)

    def called(self, key: str) -> list[str]:
        """The computations named by ``calls=%a`` or ``calls={%a, %b}``."""
        match = re.search(rf"\b(?:{key})=(%[\w.\-~]+|\{{[^}}]*\}})", self.attributes)
        return NAME.findall(match[1]) if match else []

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes; None without a match."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None

    def need(self, pattern: str) -> str:
        """The first group of a pattern that has to match."""
        match = self.attribute(pattern)
        if match is None:
            raise ValueError(f"%{self.name} has no {pattern}: {self.attributes[:200]}")
        return match


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """Computations by name, the name of the entry, and the number of devices."""

    computations: dict[str, Computation]
    entry: str
    devices: int


def parse(text: str) -> Program:
    """Reads the text of an optimized module.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = None
    current: Computation | None = None
    for line in text.splitlines():
        if current is None:
            header = HEADER.match(line)
            if header and line.endswith("{"):
                current = computations[header[2]] = {}
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif (instruction := _instruction(line)) is not None:
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("The text has no ENTRY computation: is it optimized HLO?")
    partitions, replicas = (
        int(match[1]) if (match := re.search(rf"\b{key}=(\d+)", text)) else 1
        for key in ("num_partitions", "replica_count")
    )
    return Program(computations, entry, partitions * replicas)


def root(computation: Computation) -> Instruction:
    return next(i for i in computation.values() if i.is_root)


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], str]]:
    """(dtype, dimensions, layout) of a shape, or of each part of a tuple.

    Examples:
      >>> arrays("(bf16[8,2]{1,0:T(8,128)S(1)}, s32[])")
      [('bf16', (8, 2), '{1,0:T(8,128)S(1)}'), ('s32', (), '')]
    """
    return [
        (dtype, tuple(map(int, sizes.split(","))) if sizes else (), layout)
        for dtype, sizes, layout in ARRAY.findall(shape)
    ]


def size(shape: str) -> float:
    """Bytes of a shape without padding; 0 for tokens and other opaque types.

    Examples:
      >>> size("(f32[2,3]{1,0}, s4[4])")
      26.0
    """
    return sum(
        math.prod(dimensions) * _bits(dtype) / 8
        for dtype, dimensions, _ in arrays(shape)
    )


def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    return 8 if dtype.startswith("f8") else 4 if dtype.startswith("f4") else 0


def _instruction(line: str) -> Instruction | None:
    start = START.match(line)
    if start is None:
        return None
    rest = COMMENT.sub("", line[start.end() :])
    cut = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:cut], rest[cut:].lstrip()
    opens = rest.find("(")
    closes = _closing(rest, opens)
    return Instruction(
        start[2],
        shape,
        rest[:opens],
        rest[opens + 1 : closes],
        rest[closes + 1 :],
        start[1] is not None,
    )


def _closing(text: str, opens: int) -> int:
    """The index of the parenthesis that closes the one at `opens`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opens):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)
