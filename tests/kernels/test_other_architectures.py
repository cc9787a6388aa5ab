"""The law of targets elsewhere: 64-bit Arm and big-endian s390x under emulation, clang, and sanitizers.

The kernels are compiled here with the flags of meson.build, and a small program writes what they give.
"""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fastinit
from fastinit import Key, _core
from fastinit.dtypes import DTYPES

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "fastinit" / "kernels"
KEY = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not KERNELS.exists(), reason="the kernels' sources are not beside the tests"),
]


def strings(text):
    return re.findall(r"'([^']*)'", text)


def build_flags(family):
    """(flags for exact arithmetic, {target: its flags}, definitions) of meson.build for a processor family."""
    text = (ROOT / "meson.build").read_text("utf-8")
    exact = strings(re.search(r"^exact = .*?\((.*?)\n?\)", text, re.S | re.M)[1])
    assert "-ffp-contract=off" in exact and "-O3" in exact
    flags = {"generic": []}
    definitions = []
    branch = {
        "x86_64": re.search(r"if family == 'x86_64'(.*?)elif", text, re.S),
        "aarch64": re.search(r"elif family == 'aarch64'(.*?)endif", text, re.S),
    }.get(family)
    if branch:
        for line in branch[1].splitlines():
            if found := re.match(r"\s*(?:targets \+= \{)?'(\w+)': (.*)", line):
                flags[found[1]] = strings(found[2])
            if "definitions +=" in line:
                definitions += strings(line)
        assert len(flags) > 1 and definitions
    return exact, flags, definitions


def accepted(compiler, flags):
    """Those flags that a compiler knows, as Meson's get_supported_arguments finds them."""
    kept = []
    for flag in flags:
        test = [*compiler, "-Werror", flag, "-x", "c", "-c", "-o", "/dev/null", "-"]
        if subprocess.run(test, input="int x;", text=True, capture_output=True, check=False).returncode == 0:
            kept.append(flag)
    return kept


def build(folder, compiler, family, extra=(), link=(), optimization="-O3"):
    exact, targets, definitions = build_flags(family)
    exact = [optimization if flag == "-O3" else flag for flag in accepted(compiler, exact)]
    common = [
        *compiler,
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror=implicit-function-declaration",
        f"-I{KERNELS}",
        *extra,
    ]
    objects = []

    def compile_one(source, name, flags):
        objects.append(folder / f"{name}.o")
        subprocess.run([*common, *flags, "-c", source, "-o", objects[-1]], check=True)

    for name, flags in targets.items():
        chosen = [*accepted(compiler, flags), f"-DFASTINIT_{name.upper()}", f"-DFASTINIT_TARGET={name}", *exact]
        for source in ("fill", "orthogonal"):
            compile_one(KERNELS / f"{source}.c", f"{source}_{name}", chosen)
    for source in ("targets", "narrow", "memory"):
        compile_one(KERNELS / f"{source}.c", source, ["-DFASTINIT_GENERIC", *definitions, *exact])
    compile_one(ROOT / "tests" / "kernels" / "driver.c", "driver", [])
    program = folder / "driver"
    subprocess.run([*compiler, *extra, *link, "-o", program, *objects], check=True)
    return program


def fills(all_samplers):
    """(sampling, start, length, offset): every sampler at lengths around the widths, at odd starts and addresses."""
    rng = np.random.default_rng(7)
    for sampling in all_samplers.values():
        for length in (0, 1, 3, 33, 65, 97, 130, 193, 400, 3400):
            yield sampling, int(rng.integers(0, 40)), length, int(rng.integers(0, 64))
        for start in (2**33 - 50, 2**34 - 51, 2**40 + 7, 2**63 - 3400):
            yield sampling, start, 333, 0
        yield sampling, 4, 3400, 4


MATRICES = [(1, 1), (7, 5), (97, 97), (200, 96), (211, 193)]


def questions(all_samplers):
    """The program's input, and the little-endian bytes of the core that it should answer with."""
    itemsize = {dtype.tag: dtype.itemsize for dtype in DTYPES.values()} | {_core.UINT32: 4}
    index = fastinit.targets.index_of(fastinit.targets.current())
    for sampling, start, length, offset in fills(all_samplers):
        p = sampling.parameters
        size = itemsize[p["dtype"]]
        affine = (p[name].hex() for name in ("scale", "shift", "low", "high"))
        own = p["first"], p["count"], p["tail_low"].hex(), p["tail_share"].hex(), p["bits"]
        numbers = p["kind"], p["dtype"], size, int(p["clamped"]), *affine, *own, *KEY, start, length, offset
        out = np.zeros(length, f"u{size}")
        if length:
            region = _core.Region(_core.address(out), start, (length,), (1,), (size,))
            _core.Fill(index, sampling, KEY, region).run(0, length)
        yield " ".join(["fill", *map(str, numbers)]), out
    for m, n in MATRICES:
        for name in ("float32", "float64"):
            out = np.empty((m, n), name)
            fastinit.fill(out, fastinit.Orthogonal(gain=1.25), Key.from_words(*KEY))
            yield f"orthogonal {DTYPES[name].tag} {out.itemsize} {m} {n} {(1.25).hex()} {' '.join(map(str, KEY))}", out


def check(program, all_samplers, expected_targets, emulator=(), swapped=False):
    names = subprocess.run(
        [*emulator, program, "names"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert names == expected_targets
    asked = list(questions(all_samplers))
    done = subprocess.run(
        [*emulator, program],
        input="\n".join(q for q, _ in asked).encode(),
        capture_output=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()[-3000:]
    answer, at, wrong = done.stdout, 0, []
    for question, out in asked:
        wanted = (out.byteswap() if swapped else out).tobytes()
        for name in names:
            if answer[at : at + len(wanted)] != wanted:
                wrong.append((name, question))
            at += len(wanted)
    assert at == len(answer)
    assert wrong == []


def tool(*names):
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed")


def test_the_flags_are_read_from_the_build():
    exact, flags, definitions = build_flags("x86_64")
    assert set(flags) == {"generic", "x86_v4_intel", "x86_v4", "x86_v3", "baseline"} and "-mno-fma" in flags["x86_v3"]
    assert definitions == ["-DFASTINIT_HAS_X86"] and "-fno-fast-math" in exact
    assert build_flags("aarch64")[1:] == ({"generic": [], "neon": []}, ["-DFASTINIT_HAS_NEON"])
    assert build_flags("s390x")[1:] == ({"generic": []}, [])


def test_arm(tmp_path, all_samplers):
    compiler, emulator = tool("aarch64-linux-gnu-gcc"), tool("qemu-aarch64", "qemu-aarch64-static")
    program = build(tmp_path, [compiler], "aarch64", link=["-static"])
    check(program, all_samplers, ["neon", "generic"], [emulator])


def test_big_endian(tmp_path, all_samplers):
    compiler, emulator = tool("s390x-linux-gnu-gcc"), tool("qemu-s390x", "qemu-s390x-static")
    program = build(tmp_path, [compiler], "s390x", link=["-static"])
    check(program, all_samplers, ["generic"], [emulator], swapped=True)


@pytest.fixture
def native():
    if "baseline" not in fastinit.targets.compiled():
        pytest.skip("compares x86-64 builds")
    return list(fastinit.targets.supported())


@pytest.mark.parametrize("compiler", ["gcc", "clang", "clang-14"])
def test_another_compiler(tmp_path, all_samplers, native, compiler):
    check(build(tmp_path, [tool(compiler)], "x86_64"), all_samplers, native)


def test_without_optimization(tmp_path, all_samplers, native):
    """Nothing depends on what an optimizer makes of undefined behaviour."""
    check(
        build(tmp_path, [tool("gcc")], "x86_64", ["-fno-strict-aliasing", "-fwrapv"], optimization="-O1"),
        all_samplers,
        native,
    )


def test_sanitizers(tmp_path, all_samplers, native):
    """Neither an address outside a buffer nor undefined behaviour."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    check(build(tmp_path, [tool("gcc")], "x86_64", sanitizers, optimization="-O1"), all_samplers, native)
