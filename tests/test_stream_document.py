"""docs/stream-v1.md says what the reference does. Running this file as a script rewrites the computed parts."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from fastinit import coefficients, reference, truncation
from fastinit.keys import Key

DOCS = Path(__file__).resolve().parents[1] / "docs"
DOCUMENT = DOCS / "stream-v1.md"
COEFFICIENTS = DOCS / "stream-v1-coefficients.md"
INF = float("inf")

# what each table is, from the comment above it
SOURCE = Path(coefficients.__file__).read_text(encoding="utf-8")
COMMENTS = {name: comment for comment, name in re.findall(r"^# (.*)\n([A-Z0-9_]+) = ", SOURCE, re.M)}


def short_hex(value):
    """float.hex without trailing zeros."""
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0').removesuffix('.') if '.' in mantissa else mantissa}p{exponent}"


def block(lines):
    return "\n".join(["```text", *lines, "```"])


# The coefficients


def coefficients_page():
    parts = [
        "# Coefficients of stream v1",
        "Part of [stream v1](stream-v1.md): they never change. Lowest degree first, exact, in C99 hexadecimal.\n"
        "The `NORMAL64`, `TAIL` and `AS241` tables and `TWO_LN2` are float64, the others float32. Written from\n"
        "`fastinit/coefficients.py` by `tests/test_stream_document.py`.",
    ]
    for name, comment in COMMENTS.items():
        value, heading = getattr(coefficients, name), comment
        if isinstance(value, float):
            lines = [short_hex(value)]
        elif isinstance(value[0], float):
            lines = textwrap.wrap(" ".join(map(short_hex, value)), 110, break_on_hyphens=False)
        else:  # by octave, lowest degree first in each
            heading = comment.replace("row = degree, column = octave", "one octave to a paragraph")
            lines = []
            for octave, column in enumerate(zip(*value, strict=True)):
                head = f"[{octave:2d}] "
                lines += textwrap.wrap(
                    head + " ".join(map(short_hex, column)), 110, subsequent_indent=" " * 5, break_on_hyphens=False
                )
        parts += [f"## {name}", f"`{heading}`", block(lines)]
    return "\n\n".join(parts) + "\n"


# The examples

KEYS = [
    ("Key(0)", Key(0)),
    ("Key(-1)", Key(-1)),
    ("Key(2**64)", Key(2**64)),
    ('Key("0")', Key("0")),
    ('Key(b"0")', Key(b"0")),
    ('Key(0).fold_in("encoder.weight")', Key(0).fold_in("encoder.weight")),
    ('Key(0).fold_in("module.encoder.weight")', Key(0).fold_in("module.encoder.weight")),
    ("Key(0).fold_in(1)", Key(0).fold_in(1)),
    ("Key(0).split(2)[1]", Key(0).split(2)[1]),
]

WORDS = (1, 2, 3, 4)
ELEMENTS = np.array([0, 1, 2, 3, 2**34 + 1], np.uint64)

# what is drawn, kind, dtype, scale, shift, interval, the kind's own parameters
VALUES = [
    ("words", "words", "uint32", 1.0, 0.0, None, {}),
    ("uniform (-0.1, 0.1)", "uniform_symmetric", "float32", 0.1 * 2**-24, 0.0, None, {}),
    ("uniform [1, 3)", "uniform", "float32", 2.0**-23, 1.0, (1.0, 3 - 2.0**-22), {}),
    ("uniform [1, 3)", "uniform", "bfloat16", 2.0**-23, 1.0, (1.0, 3 - 2.0**-6), {}),
    ("normal 0, 1", "normal", "float32", 1.0, 0.0, None, {}),
    ("normal 0.5, 0.02", "normal", "float32", 0.02, 0.5, None, {}),
    ("normal 0, 0.02", "normal", "float16", 0.02, 0.0, None, {}),
    ("normal 0, 0.02", "normal", "bfloat16", 0.02, 0.0, None, {}),
    ("normal 0, 0.02", "normal", "float8_e4m3fn", 0.02, 0.0, None, {}),
    ("normal 0, 0.02", "normal", "float8_e5m2", 0.02, 0.0, None, {}),
    ("normal 0, 1 in [-2, 2]", "truncated_2", "float32", 1.0, 0.0, (-2.0, 2.0), {}),
    ("normal 0, 1 in [-1, 3]", "truncated", "float32", 1.0, 0.0, (-1.0, 3.0), {"window": truncation.window(-1, 3, 32)}),
    ("normal 0, 1 in [0, inf]", "truncated", "float32", 1.0, 0.0, (0.0, reference.f32(3.4028235e38)),
     {"window": truncation.window(0, INF, 32)}),
    ("uniform (-0.1, 0.1)", "uniform_symmetric_64", "float64", 0.1 * 2**-53, 0.0, None, {}),
    ("uniform [1, 3)", "uniform_64", "float64", 2.0**-52, 1.0, (1.0, 3 - 2.0**-51), {}),
    ("normal 0, 1", "normal_64", "float64", 1.0, 0.0, None, {}),
    ("normal 0, 1 in [-2, 2]", "truncated_64", "float64", 1.0, 0.0, (-2.0, 2.0),
     {"window": truncation.window(-2, 2, 64)}),
    ("normal 0, 1 in [10, 11]", "truncated_tail_64", "float64", 1.0, 0.0, (10.0, 11.0),
     {"tail": (10.0, truncation.tail_ratio(10, 11))}),
    ("normal 0, 1 in [-inf, -5]", "truncated_tail_64", "float32", -1.0, 0.0, (-3.4028234663852886e38, -5.0),
     {"tail": (5.0, 1.0)}),
]  # fmt: skip


def bits(values):
    """The bit patterns in hexadecimal, as many digits as the dtype has."""
    return [f"{int(word):0{2 * values.itemsize}x}" for word in values.view(f"u{values.itemsize}")]


def keys_section():
    return block(f"{text:<40} {' '.join(f'{word:08x}' for word in key.words)}" for text, key in KEYS)


def values_section():
    lines = []
    for text, kind, dtype, scale, shift, interval, own in VALUES:
        drawn = reference.values(WORDS, kind, ELEMENTS, dtype, scale, shift, interval, **own)
        lines += [f"{text}, {kind.upper()}, {dtype}", f"    {' '.join(bits(drawn))}"]
        given = ", ".join(f"{name} {numbers}" for name, numbers in own.items())
        if given:
            lines[-2] += f", {given}"
    return block(lines)


SECTIONS = {"keys": keys_section, "values": values_section}


def with_sections(text):
    for name, section in SECTIONS.items():
        text, found = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, s=section: f"{m[1]}{s()}\n{m[2]}", text, flags=re.S
        )
        assert found == 1, f"the section {name} of {DOCUMENT.name} has lost its marks"
    return text


def test_the_document_has_the_values_of_the_reference():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == with_sections(text)


def test_the_coefficients_page_has_the_coefficients():
    assert COEFFICIENTS.read_text(encoding="utf-8") == coefficients_page()


def test_every_table_is_named_in_the_document():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in COMMENTS if not re.search(rf"\b{name}\b", text)] == []


def test_philox_known_answers():
    """Salmon et al.: the kat_vectors of Random123, as the document lists them."""
    rows = re.findall(
        r"^\| ((?:[0-9a-f]{8} ?){4})\| ((?:[0-9a-f]{8} ?){2})\| ((?:[0-9a-f]{8} ?){4})\|$",
        DOCUMENT.read_text(encoding="utf-8"),
        re.M,
    )
    assert len(rows) == 3
    for row in rows:
        counter, key, expected = ([int(word, 16) for word in cell.split()] for cell in row)
        assert [int(word) for word in reference.philox4x32(counter, key)] == expected


def test_seven_rounds_known_answer():
    assert [int(word) for word in reference.philox4x32((0, 0, 0, 0), (0, 0), rounds=7)] == [
        0x5F6FB709,
        0x0D893F64,
        0x4F121F81,
        0x4F730A48,
    ]


# The reference itself


OWN = {
    "truncated": {"window": (5, 2**31)},
    "truncated_64": {"window": (5, 2**63)},
    "truncated_tail_64": {"tail": (4.0, 1.0)},
}


@pytest.mark.parametrize("kind", [kind for kind in reference.KINDS if kind != "constant"])
def test_any_indices_give_the_values_of_their_range(kind):
    dtype, own = "float64" if kind.endswith("64") else "float32", OWN.get(kind, {})
    start, index = 2**34 - 20, np.array([33, 2, 2, 21, 0, 19], np.uint64)
    whole = reference.fill(WORDS, kind, start, 40, dtype, **own)
    some = reference.values(WORDS, kind, index + np.uint64(start), dtype, **own)
    assert some.tobytes() == whole[index.astype(int)].tobytes()


def every_float32(step=997):
    """Finite float32 values of both signs, and those next to every tie of the narrow formats."""
    spread = np.arange(0, 0x7F800000, step, dtype=np.uint32)
    ties = np.arange(0, 0x7F800000, 1 << 12, dtype=np.uint32)
    words = np.concatenate([spread, ties, ties + np.uint32(1), ties[1:] - np.uint32(1)])
    return np.concatenate([words, words | np.uint32(1 << 31)]).view(np.float32)


@pytest.mark.parametrize("dtype", reference.FORMATS)
def test_narrowing_agrees_with_other_libraries(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    theirs = np.float16 if dtype == "float16" else getattr(ml_dtypes, dtype)
    x = every_float32()
    x = x[np.abs(x) <= np.float32(ml_dtypes.finfo(theirs).max)]
    narrowed = reference.narrow(x, dtype)
    assert narrowed.tobytes() == x.astype(theirs).tobytes()


if __name__ == "__main__":
    DOCUMENT.write_text(with_sections(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    COEFFICIENTS.write_text(coefficients_page(), encoding="utf-8", newline="\n")
