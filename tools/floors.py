"""The fewest cycles per value for the kernels' instructions: `python -m tools.floors [PROCESSOR]`.

The tool runs a fill one instruction at a time and passes the instructions of one stretch, including loops and branches,
to llvm-mca. llvm-mca knows the operations of each instruction and the ports that execute them. PROCESSOR is a name from
PROCESSORS below, by default one of this processor's maker. The tool prints two tables:

- The floor. For every set of vector ports, it divides the number of operations that only these ports execute by the
  number of ports, and takes the largest quotient. No order of the instructions is faster.
- The cycles in llvm-mca's model of the processor, with the instructions in order and all loads from the first-level
  cache. For 512 bits the model assumes that one port multiplies, which holds for other processors of the family. There
  the tool spreads all operations over two ports and does not use the model.

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

# The ports for vectors of up to 256 bits.
PROCESSORS = {
    "sapphirerapids": ("SPRPort00", "SPRPort01", "SPRPort05"),
    "znver3": ("Zn3FP0", "Zn3FP1", "Zn3FP2", "Zn3FP3"),
}
MAKERS = {"GenuineIntel": "sapphirerapids", "AuthenticAMD": "znver3"}
PORTS_OF_512_BITS = 2
# Values of a stretch with 32-bit words, whose words are all drawn before the first is transformed. A uniform's stretch
# is an eighth of it.
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
    """The processor of PROCESSORS by the same maker as this one."""
    with open("/proc/cpuinfo") as file:
        found = re.search(r"^vendor_id\s*: (\w+)", file.read(), re.MULTILINE)
    return MAKERS.get(found[1] if found else "", "sapphirerapids")


@cache
def llvm_mca(processor: str) -> str:
    """The command.

    Raises
    ------
    NotImplementedError
        If no installed version knows the processor's ports. Before LLVM 17, some processors had another one's ports.
    """
    for name in ("llvm-mca", *(f"llvm-mca-{version}" for version in range(29, 16, -1))):
        if shutil.which(name):
            asked = [name, f"-mcpu={processor}", "-instruction-tables"]
            said = subprocess.run(asked, input="nop\n", capture_output=True, text=True, check=False).stdout
            if PROCESSORS[processor][0] in said:
                return name
    raise NotImplementedError("llvm-mca of LLVM 17 or later is not installed")


def values_per_stretch(case: str, target: str) -> int:
    """Number of values from the repeated part of a kernel."""
    values = STRETCH[target] // (8 if case.startswith("uniform") else 1)
    return values // 2 if case.endswith("float64") else values


def executed(case: str, target: str, count: int) -> list[int]:
    """Addresses of a fill's instructions in the core's file, in execution order."""
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
    """The instructions between two visits of one that every stretch runs once, at equal distances."""
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
    """The instructions at these addresses, without labels. After a branch comes the instruction that was run next."""
    found = []
    for address in addresses:
        instruction = _listing()[address].replace("(%rip)", "(%r15)")
        if instruction.startswith("j"):
            instruction = "nop" if instruction.startswith("jmp") else "jne 1f\n1:"
        found.append("nop" if instruction.startswith(("call", "ret")) else instruction)
    return found


def vector_operations(table: str, ports: tuple[str, ...]) -> Mapping[frozenset[str], float]:
    """The number of vector and mask operations on each set of ports.

    `table` is llvm-mca's table of instructions and their pressure on each port. A register move takes no port, because
    the processor renames the register. A square root takes a port for one operation, however long it occupies the unit
    behind the port.
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
    """Cycles until these ports finish the operations, without other delays."""
    sets = chain.from_iterable(combinations(ports, size) for size in range(1, len(ports) + 1))
    return max(sum(count for used, count in operations.items() if used <= set(some)) / len(some) for some in sets)


def floor(case: str, target: str, processor: str) -> Floor:
    """The floor of one kernel, and the processor model's cycles, which are NaN for vectors of 512 bits."""
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
