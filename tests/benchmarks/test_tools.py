"""The research tools: floors from instructions, cycles, and the rehearsal of a large model."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastinit

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("layers", "checks"), [(1, 30), pytest.param(2, 300, marks=pytest.mark.long)])
def test_a_rehearsal_of_a_large_model(layers, checks):
    for name in ("torch", "torch.distributed", "transformers"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    options = ["--layers", str(layers), "--ranks", "1", "--checks", str(checks)]
    command = [sys.executable, "-m", "tools.rehearsal", *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{checks} of {checks} elements as defined" in done.stdout, done.stdout


def test_cycles_print_a_row_for_every_case(suite, monkeypatch, capsys):
    cycles = suite("cycles", "tools")
    monkeypatch.setattr(cycles, "nanoseconds_and_clock", lambda case, target, chain: (0.5, 3.0))
    monkeypatch.setattr(cycles, "Chain", object)
    monkeypatch.setattr(cycles, "rate", lambda fill: 2.0)
    for options, shown in (([], "1.50"), (["--rates"], "2.00")):
        monkeypatch.setattr(sys, "argv", ["cycles", *options])
        cycles.main()
        rows = [line for line in capsys.readouterr().out.splitlines() if shown in line]
        assert [row.split("|")[1].strip() for row in rows] == list(cycles.CASES)


MCA_TABLE = """
Resources:
[0]   - SPRPort00
[1]   - SPRPort01
[2]   - SPRPort02
[3]   - SPRPort05

Instruction Info:
[1]: #uOps
[2]: Latency
[3]: RThroughput
[4]: MayLoad
[5]: MayStore
[6]: HasSideEffects (U)

[1]    [2]    [3]    [4]    [5]    [6]    Instructions:
 2      8     0.33    *                   vpxorq	(%rax), %zmm1, %zmm3
 1      3     1.00                        vptestnmd	%zmm1, %zmm2, %k1
 1      0     0.20                        movaps	%xmm1, %xmm2
 1      1     0.20                        addq	$8, %rax
 1      7     0.33    *                   vmovups	(%rax), %ymm2
 1      19    6.00                        vsqrtps	%ymm1, %ymm2

Resource pressure per iteration:
[0]    [1]    [2]    [3]
9.00   9.00   9.00   9.00

Resource pressure by instruction:
[0]    [1]    [2]    [3]    Instructions:
0.50    -     0.33   0.50   vpxorq	(%rax), %zmm1, %zmm3
1.00    -      -      -     vptestnmd	%zmm1, %zmm2, %k1
0.33   0.33    -     0.33   movaps	%xmm1, %xmm2
0.25   0.25    -     0.25   addq	$8, %rax
 -      -     0.50    -     vmovups	(%rax), %ymm2
6.00    -      -      -     vsqrtps	%ymm1, %ymm2
"""


def test_vector_operations_are_counted(suite):
    """Those of vectors and masks, on ports that compute: no loads, no scalars, no moves that are only renamings."""
    floors = suite("floors", "tools")
    first, _, last = ports = floors.PROCESSORS["sapphirerapids"]
    found = floors.vector_operations(MCA_TABLE, ports)
    assert found == {frozenset((first, last)): 1.0, frozenset((first,)): 2.0}  # a root is one operation
    assert floors.least_cycles(found, ports) == 2.0  # of the first port; all three would take one


def test_the_least_cycles_are_those_of_the_busiest_set_of_ports(suite):
    one, other, third = "ABC"
    least = suite("floors", "tools").least_cycles
    assert least({frozenset(one): 1.0, frozenset((one, other)): 4.0}, (one, other, third)) == 2.5
    assert least({frozenset(one): 1.0, frozenset((one, other)): 0.5, frozenset("ABC"): 4.0}, ("A", "B", "C")) == 5.5 / 3
    assert least({}, (one,)) == 0.0


def test_a_stretch_is_what_repeats(suite):
    loop = list(range(100, 300))
    addresses = [1, 2, 3, *loop * 2, 4, 5, *loop * 2, 4, 5, *loop * 2, 4, 5, *loop * 2, 4, 5, 6]
    found = suite("floors", "tools").one_stretch(addresses, 4)
    assert len(found) == 402 and sorted(set(found)) == [4, 5, *loop]


@pytest.mark.skipif("x86_v3" not in fastinit.targets.supported(), reason="AVX2 is of another processor")
def test_the_floor_of_a_kernel(suite):
    floors = suite("floors", "tools")
    try:
        floors.llvm_mca("znver3")
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    assert floors.processor_here() in floors.PROCESSORS
    # 17 multiplications for 16 values, and what is around them, on three ports and on four
    intel, amd = (floors.floor("uniform, float32", "x86_v3", processor) for processor in floors.PROCESSORS)
    assert 1.5 < intel.ports < intel.modelled < 2.5
    assert 1.1 < amd.ports < 0.8 * intel.ports and amd.ports < amd.modelled < 2.5


def test_a_tensor_goes_straight_to_where_it_is_filled():
    pytest.importorskip("torch", reason="torch is not installed")
    done = subprocess.run([sys.executable, "-m", "tools.routes"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = {line[:12].strip(): int(line[12:16]) for line in done.stdout.splitlines()[1:]}
    # 7 and 29 before the tensor's kind was asked once and its part became one value
    assert counts["plain"] == counts["with a key"] == counts["grouped"] == counts["transposed"] == 3
    # into the floating-point environment of the stream and out of it, too, to the buffers of each module, and to the
    # marks of slices
    assert counts["model"] <= 35
