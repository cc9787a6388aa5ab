"""The least cycles per value that the kernels' instructions take: `python -m tools.floors [PROCESSOR]`.

A fill is run an instruction at a time, and those of one stretch, loops, branches and all, are handed to llvm-mca, which
knows into how many operations a processor takes each apart, and which ports can do them. PROCESSOR is one that llvm-mca
knows and PROCESSORS below, by default the one of the maker of this one. Two tables:

- the floor: of every set of the vector units' ports, the operations that only these can do, over their number; the
  largest of them. No order of these instructions is faster;
- what llvm-mca's model of the processor takes for them in their order, all loads from the first cache. Of 512 bits it
  believes that one port multiplies, which holds for other processors of the family, so there all operations are put
  over two ports, and the model is not asked.

Needs Linux on x86-64, binutils and llvm-mca of LLVM 17 or later (Debian: llvm-19). Takes three minutes.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import chain, combinations, pairwise
from typing import NamedTuple

import fastinit
from benchmarks.bench_kernels import CASES
from fastinit import _core

from .cycles import core_fill, table

# The ports that compute with vectors of up to 256 bits.
PROCESSORS = {
    "sapphirerapids": ("SPRPort00", "SPRPort01", "SPRPort05"),
    "znver3": ("Zn3FP0", "Zn3FP1", "Zn3FP2", "Zn3FP3"),
}
MAKERS = {"GenuineIntel": "sapphirerapids", "AuthenticAMD": "znver3"}
PORTS_OF_512_BITS = 2
# Values of a stretch, the words of which are drawn before the first is transformed, where words are of 32 bits; a
# uniform's is an eighth of it.
STRETCH = {"x86_v4_intel": 1536, "x86_v4": 1536, "x86_v3": 768, "baseline": 384}
STRETCHES = 5
WIDE = ("x86_v4_intel", "x86_v4")
VECTOR = re.compile(r"%([xyz]mm|k[0-7])")
RENAMED = re.compile(r"v?mov(?:[au]p[sd]|dq[au]\d*)\s+%[xyz]mm\d+,\s*%[xyz]mm\d+$")
PTRACE_TRACEME, PTRACE_SINGLESTEP, PTRACE_GETREGS = 0, 9, 12
INSTRUCTION_POINTER = 16  # of the 27 registers of struct user_regs_struct


class Floor(NamedTuple):
    """Cycles per value."""

    ports: float
    modelled: float


def processor_here() -> str:
    """The processor of PROCESSORS that was made by this one's maker."""
    with open("/proc/cpuinfo") as file:
        found = re.search(r"^vendor_id\s*: (\w+)", file.read(), re.MULTILINE)
    return MAKERS.get(found[1] if found else "", "sapphirerapids")


@cache
def llvm_mca(processor: str) -> str:
    """The command.

    Raises
    ------
    NotImplementedError
        If there is none that knows the processor's ports; before LLVM 17 it knew some by name, and another one's ports.
    """
    for name in ("llvm-mca", *(f"llvm-mca-{version}" for version in range(29, 16, -1))):
        if shutil.which(name):
            asked = [name, f"-mcpu={processor}", "-instruction-tables"]
            said = subprocess.run(asked, input="nop\n", capture_output=True, text=True, check=False).stdout
            if PROCESSORS[processor][0] in said:
                return name
    raise NotImplementedError("llvm-mca of LLVM 17 or later is not installed")


def values_per_stretch(case: str, target: str) -> int:
    """How many values the part of a kernel gives that is repeated."""
    values = STRETCH[target] // (8 if case.startswith("uniform") else 1)
    return values // 2 if case.endswith("float64") else values


def executed(case: str, target: str, count: int) -> list[int]:
    """Addresses of the instructions of a fill in the file of the core, in the order in which they were run."""
    fill = core_fill(case, target, count)
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    file = os.path.realpath(str(_core.__file__))
    child = os.fork()
    if child == 0:
        ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        fill()
        os._exit(0)
    os.waitpid(child, 0)
    with open(f"/proc/{child}/maps") as maps:
        mapped = [re.match(r"(\w+)-(\w+) (\S+)", line) for line in maps if line.rstrip().endswith(file)]
    places = [(int(found[1], 16), int(found[2], 16), found[3]) for found in mapped if found]
    base = places[0][0]
    begin, end = next((first, last) for first, last, rights in places if "x" in rights)
    registers, found = (ctypes.c_ulong * 27)(), []
    while ptrace(PTRACE_SINGLESTEP, child, None, None) == 0:
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            break
        ptrace(PTRACE_GETREGS, child, None, registers)
        if begin <= registers[INSTRUCTION_POINTER] < end:
            found.append(registers[INSTRUCTION_POINTER] - base)
    return found


def one_stretch(addresses: list[int], stretches: int) -> list[int]:
    """What lies between two visits of an instruction that every stretch runs once, at equal distances."""
    for address, visits in Counter(addresses).items():
        if stretches - 1 <= visits <= stretches:
            places = [place for place, found in enumerate(addresses) if found == address]
            distances = [b - a for a, b in pairwise(places)]
            if len(set(distances[1:-1])) == 1 and distances[1] > 100:
                return addresses[places[1] : places[2]]
    raise RuntimeError("the fill repeats nothing")


@cache
def _listing() -> dict[int, str]:
    """The instructions of the core by their addresses."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(_core.__file__)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^\s*([0-9a-f]+):\s+(\S[^#<\n]*)", listing, re.MULTILINE)
    return {int(address, 16): instruction.strip() for address, instruction in lines}


def assembly(addresses: list[int]) -> list[str]:
    """The instructions at these addresses, without labels: a branch goes on with what followed it."""
    found = []
    for address in addresses:
        instruction = _listing()[address].replace("(%rip)", "(%r15)")
        if instruction.startswith("j"):
            instruction = "nop" if instruction.startswith("jmp") else "jne 1f\n1:"
        found.append("nop" if instruction.startswith(("call", "ret")) else instruction)
    return found


def vector_operations(table: str, ports: tuple[str, ...]) -> Mapping[frozenset[str], float]:
    """How many operations of instructions with vectors or masks go to which of the ports.

    `table` is llvm-mca's of the instructions and of the pressure that each puts on each port. A move from register to
    register takes no port: the processor renames the register. A root takes one for the one operation that it is, as
    long as it may keep the unit behind the port busy.
    """
    names = dict(re.findall(r"^\[(\S+)\]\s+- (\S+)", table, re.MULTILINE))
    information, pressure = table.split("Resource pressure by instruction")
    operations = [int(count) for count in re.findall(r"^ (\d+) +\d+ +\d+\.\d+ ", information, re.MULTILINE)]
    head, *rows = pressure.splitlines()[1:]
    columns = [names[number] for number in re.findall(r"\[(\S+?)\]", head)]
    cells = [row.split(None, len(columns)) for row in rows]
    found: dict[frozenset[str], float] = defaultdict(float)
    for (*pressures, instruction), most in zip(
        (row for row in cells if len(row) > len(columns)), operations, strict=True
    ):
        used = {
            name: float(cell) for name, cell in zip(columns, pressures, strict=True) if name in ports and cell != "-"
        }
        if used and VECTOR.search(instruction) and not RENAMED.match(instruction):
            found[frozenset(used)] += min(sum(used.values()), most)
    return found


def least_cycles(operations: Mapping[frozenset[str], float], ports: tuple[str, ...]) -> float:
    """Until these ports have done them, if nothing else delays them."""
    sets = chain.from_iterable(combinations(ports, size) for size in range(1, len(ports) + 1))
    return max(sum(count for used, count in operations.items() if used <= set(some)) / len(some) for some in sets)


def floor(case: str, target: str, processor: str) -> Floor:
    """The floor of one kernel, and what the processor's model says of it; that is nan for vectors of 512 bits."""
    values, ports = values_per_stretch(case, target), PROCESSORS[processor]
    addresses = executed(case, target, STRETCHES * values)
    text = "\n".join(assembly(one_stretch(addresses, STRETCHES))) + "\n"

    def asked(*options: str) -> str:
        command = [llvm_mca(processor), f"-mcpu={processor}", "-all-views=false", *options]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    operations = vector_operations(asked("-instruction-tables", "-instruction-info", "-resource-pressure"), ports)
    if target in WIDE:
        return Floor(sum(operations.values()) / PORTS_OF_512_BITS / values, float("nan"))
    rounds = 10
    cycles = re.search(r"Total Cycles:\s+(\d+)", asked("-summary-view", f"-iterations={rounds}"))
    assert cycles is not None
    return Floor(least_cycles(operations, ports) / values, int(cycles[1]) / rounds / values)


if __name__ == "__main__":
    if not sys.platform.startswith("linux"):
        raise SystemExit("instructions are counted by ptrace of Linux")
    processor = sys.argv[1] if len(sys.argv) > 1 else processor_here()
    if processor not in PROCESSORS:
        raise SystemExit(f"the processor must be one of {', '.join(PROCESSORS)}, got {processor}")
    targets = [target for target in STRETCH if target in fastinit.targets.supported()]
    cases = [case for case in CASES if not case.endswith("float64") or case.startswith("normal")]
    found = {case: [floor(case, target, processor) for target in targets] for case in cases}
    for title, part in ((f"floor of {processor}, cycles per value", 0), (f"in the model of {processor}", 1)):
        table(title, targets, {case: [one[part] for one in row] for case, row in found.items()})
        print()
