"""Fit the polynomial coefficients of stream v1 and write them for C and for Python.

Run by hand, with NumPy and mpmath installed::

    python fastinit/kernels/coefficients.py            # write both files
    python fastinit/kernels/coefficients.py --check    # compare the files with a fresh fit, write nothing
    python fastinit/kernels/accuracy.py                # print what the target precision makes of the tables

Writes ``fastinit/kernels/tables.h`` and ``fastinit/coefficients.py``: the same numbers in two languages.

Each polynomial is a near-minimax fit of the relative error: least squares on 400 Chebyshev points, reweighted by the
error (Lawson, *Contributions to the theory of linear least maximum approximation*, 1961), then rounded to the target
format one coefficient at a time from the lowest, with a refit of the rest after each.  The residual is taken in 140-bit
arithmetic and only the correction is solved for in double precision, so fits far below 2^-53 are exact enough.  The
solver uses no BLAS and no libm: every machine writes the same files.

Every polynomial is evaluated by Horner's rule, highest degree first, each multiplication and each addition rounded
once (no fused multiply-add).  The figures in the comments are errors of the fit alone, before that rounding.
"""

import argparse
import statistics
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpmath import mp, mpf
from numpy.polynomial.chebyshev import chebvander

KERNELS = Path(__file__).resolve().parent
C_FILE = KERNELS / "tables.h"
PYTHON_FILE = KERNELS.parent / "coefficients.py"
PRECISION = 140
POINTS = 400
LAWSON_ROUNDS = 60

TRUNC2_SCALE = float.fromhex("0x1.d277bcp-1")  # erf(sqrt 2)^2 rounded to float32
TRUNC2_SHIFT = 0.625
TWO_LN2 = float.fromhex("0x1.62e42fefa39efp+0")
TWO_LN2_F = float.fromhex("0x1.62e430p+0")

# Settled: fits of the same kind from before the stream was frozen.  A fresh fit differs only in the last digits of the
# high degrees, and its float32 result is no better: same largest error, rms errors equal to a relative 1e-4.
NORMAL_L = """0x1p+1 0x1.fffecp-1 0x1.55a382p-1 0x1.f3144cp-2 0x1.0df4dap-1 -0x1.721596p-2 0x1.3549e6p+1
    -0x1.a39134p+1 0x1.6a0b1p+1"""
TRUNC2_P = """0x1.807318p+0 -0x1.1176cp+0 0x1.d6ac2ep-1 -0x1.d15656p-1 0x1.008c7ep+0 -0x1.35205p+0 0x1.95a9a4p+0
    -0x1.f9a67ap+0 0x1.e499e4p+0 -0x1.ee17fp+1 0x1.76394p+3 -0x1.929326p+3"""


# --- the functions -------------------------------------------------------------------------------------------------


def log_quotient(y):
    """-2 ln(1 - y) / y."""
    return -2 * mp.log1p(-y) / y


def sine_quotient(t):
    """sin(pi x / 4) / x as a function of t = x^2."""
    x = mp.sqrt(t)
    return mp.sin(mp.pi * x / 4) / x


def cosine_quotient(t):
    """(cos(pi x / 4) - 1) / t as a function of t = x^2."""
    return -2 * mp.sin(mp.pi * mp.sqrt(t) / 8) ** 2 / t


def cosine_weight(t):
    """Turns the error of `cosine_quotient` into the relative error of the cosine."""
    return t / mp.cos(mp.pi * mp.sqrt(t) / 4)


def truncated_quotient(q):
    """z / v of the normal truncated to +-2 sigma; q = sqrt(1 - scale v^2) - shift."""
    v = mp.sqrt((1 - (q + mpf(TRUNC2_SHIFT)) ** 2) / mpf(TRUNC2_SCALE))
    return mp.sqrt(2) * mp.erfinv(mp.erf(mp.sqrt(2)) * v) / v


def normal_quantile(p):
    """-Phi^-1(p) for p in (0, 1/2), exact relative to the result also near both ends: Halley's iteration."""
    q = mpf(1) / 2 - p
    z = mp.sqrt(2 * mp.pi) * q * (1 + mp.pi * q * q / 3)
    if q > 1e-3:
        z = -mpf(statistics.NormalDist().inv_cdf(float(p)))
    step = z
    while abs(step) > 1e-9 * z:
        excess = mp.erf(z / mp.sqrt(2)) / 2 - q if z < 1 else p - mp.erfc(z / mp.sqrt(2)) / 2
        step = excess * mp.sqrt(2 * mp.pi) * mp.exp(z * z / 2)
        step /= 1 + z * step / 2
        z -= step
    return z


def octave_quantile(octave):
    """|z| of octave 0..31 as a function of s in [-1, 0)."""
    return lambda s: normal_quantile((s + 2) * mpf(2) ** (octave - 33))


def mills(t):
    """x M(x) as a function of t = 1 / x^2; M is the Mills ratio of the normal, upper tail over density."""
    x = 1 / mp.sqrt(t)
    return x * mp.sqrt(mp.pi / 2) * mp.exp(x * x / 2) * mp.erfc(x / mp.sqrt(2))


# --- the fit -------------------------------------------------------------------------------------------------------


def to_float32(value):
    return float(np.float32(float(value)))


class Fit:
    """Near-minimax polynomial of `count` coefficients for `function` on [low, high].

    `weight` turns the absolute error into the minimized error; without it the relative error is minimized.
    """

    def __init__(self, function, low, high, count, weight=None):
        low, high = mpf(low), mpf(high)
        angles = [mp.pi * (2 * i + 1) / (2 * POINTS) for i in range(POINTS)]
        unit = [mp.cos(angle) for angle in angles]
        points = [(low + high) / 2 + (high - low) / 2 * u for u in unit]
        values = [function(x) for x in points]
        weights = [weight(x) for x in points] if weight else [1 / y for y in values]
        self.points, self.values, self.weights = (np.array(a, dtype=object) for a in (points, values, weights))
        self.unit = np.array(unit, dtype=float)
        self.map = -(high + low) / (high - low), 2 / (high - low)
        self.coefficients = [mpf(0)] * count

    def residual(self):
        """Weighted error at the points."""
        return ((self.values - horner(self.coefficients, self.points)) * self.weights).astype(float)

    def error(self):
        """The largest weighted error at the points."""
        return float(np.abs(self.residual()).max())

    def improve(self, fixed=0):
        """Correct the coefficients of degree `fixed` and above."""
        free = len(self.coefficients) - fixed
        scale = (self.points**fixed * self.weights).astype(float)
        correction = lawson(chebvander(self.unit, free - 1).T * scale, self.residual())
        for row, weight in zip(chebyshev_rows(*self.map, free), correction, strict=True):
            for degree, value in enumerate(row, fixed):
                self.coefficients[degree] += mpf(float(weight)) * value

    def solve(self):
        for _ in range(3):
            self.improve()
        return self

    def round(self, rounding, first=None):
        """Round from the lowest degree up; `first` is an optional rounding for the lowest."""
        for degree, value in enumerate(self.coefficients):
            self.coefficients[degree] = mpf((first if first and degree == 0 else rounding)(value))
            if degree + 1 < len(self.coefficients):
                self.improve(degree + 1)
        return self

    def floats(self):
        return [float(value) for value in self.coefficients]


def horner(coefficients, x):
    """The polynomial at x, highest degree first; works in the type of x."""
    result = x * 0 + coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        result = result * x + coefficient
    return result


def lawson(basis, target):
    """Coefficients that nearly minimize the largest |target - coefficients @ basis|."""
    weights, smallest, best = np.ones(len(target)), np.inf, None
    for _ in range(LAWSON_ROUNDS):
        root = np.sqrt(weights)
        solution, residual = least_squares(basis * root, target * root)
        error = np.abs(residual / root)
        if error.max() < smallest:
            smallest, best = error.max(), solution
        weights = np.maximum(weights * error / (weights * error).max(), 1e-30)
    return best


def least_squares(rows, target):
    """Modified Gram-Schmidt: the coefficients of the rows, and the residual of the target."""
    rest = np.vstack([rows, target])
    count = len(rows)
    triangle = np.zeros((count, count + 1))
    for i in range(count):
        triangle[i, i] = np.sqrt(np.square(rest[i]).sum())
        rest[i] /= triangle[i, i]
        triangle[i, i + 1 :] = (rest[i + 1 :] * rest[i]).sum(axis=1)
        rest[i + 1 :] -= triangle[i, i + 1 :, None] * rest[i]
    solution = triangle[:, count].copy()
    for i in reversed(range(count)):
        solution[i] /= triangle[i, i]
        solution[:i] -= triangle[:i, i] * solution[i]
    return solution, rest[count]


def chebyshev_rows(shift, scale, count):
    """Monomial coefficients in x of the Chebyshev polynomials in shift + scale x."""
    rows = [[mpf(1)], [shift, scale]][:count]
    while len(rows) < count:
        row = [-value for value in rows[-2]] + [mpf(0), mpf(0)]
        for degree, value in enumerate(rows[-1]):
            row[degree] += 2 * shift * value
            row[degree + 1] += 2 * scale * value
        rows.append(row)
    return rows


def fitted(rounding, *arguments, first=None):
    fit = Fit(*arguments).solve().round(rounding, first)
    return fit.floats(), fit.error()


def settled(text, function, low, high):
    """The given coefficients, after a check that the error of a fresh fit is at most 10 % smaller."""
    values = [float.fromhex(word) for word in text.split()]
    fit = Fit(function, low, high, len(values))
    reached = fit.solve().round(to_float32).error()
    fit.coefficients = [mpf(value) for value in values]
    if fit.error() > 1.1 * reached:
        raise ArithmeticError(f"settled coefficients reach {fit.error():.3g}, a fit reaches {reached:.3g}")
    return values, fit.error()


def fit_icdf():
    """The 9 x 32 table, and its largest fit error.

    From the middle outward: if rounding puts the value at the near end of an octave below the start of the next octave,
    it is raised to that start, so |z| never increases with the distance from the end.
    """
    columns, errors = [], []
    near = octave_quantile(31)
    values, error = fitted(to_float32, lambda s: near(s) / s, -1, 0, 8)  # no constant term: z -> 0 with s
    columns.append([0.0, *values])
    errors.append(error)
    for octave in range(30, 0, -1):
        start = float(horner(np.float32(columns[-1]), np.float32(-1)))
        fit = Fit(octave_quantile(octave), -1, 0, 9).solve()
        fit.round(to_float32, first=lambda value, start=start: max(to_float32(value), start))
        columns.append(fit.floats())
        errors.append(fit.error())
    columns.append([to_float32(normal_quantile(mpf(2) ** -33))] + [0.0] * 8)  # contains f = 0.5 only
    return np.array(columns[::-1]).T.tolist(), max(errors)


# --- the tables ----------------------------------------------------------------------------------------------------

# Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37 (1988), PPND16.
AS241 = {
    "a": "3.3871328727963666080e0 1.3314166789178437745e2 1.9715909503065514427e3 1.3731693765509461125e4 "
    "4.5921953931549871457e4 6.7265770927008700853e4 3.3430575583588128105e4 2.5090809287301226727e3",
    "b": "1.0 4.2313330701600911252e1 6.8718700749205790830e2 5.3941960214247511077e3 "
    "2.1213794301586595867e4 3.9307895800092710610e4 2.8729085735721942674e4 5.2264952788528545610e3",
    "c": "1.42343711074968357734e0 4.63033784615654529590e0 5.76949722146069140550e0 3.64784832476320460504e0 "
    "1.27045825245236838258e0 2.41780725177450611770e-1 2.27238449892691845833e-2 7.74545014278341407640e-4",
    "d": "1.0 2.05319162663775882187e0 1.67638483018380384940e0 6.89767334985100004550e-1 "
    "1.48103976427480074590e-1 1.51986665636164571966e-2 5.47593808499534494600e-4 1.05075007164441684324e-9",
    "e": "6.65790464350110377720e0 5.46378491116411436990e0 1.78482653991729133580e0 2.96560571828504891230e-1 "
    "2.65321895265761230930e-2 1.24266094738807843860e-3 2.71155556874348757815e-5 2.01033439929228813265e-7",
    "f": "1.0 5.99832206555887937690e-1 1.36929880922735805310e-1 1.48753612908506148525e-2 "
    "7.86869131145613259100e-4 1.84631831751005468180e-5 1.42151175831644588870e-7 2.04426310338993978564e-15",
}
AS241_REGIONS = {
    "ab": "Phi^-1(1/2 + q) = q A(r) / B(r), r = 0.180625 - q^2, |q| <= 0.425",
    "cd": "-Phi^-1(p) = C(r - 1.6) / D(r - 1.6), r = sqrt(-ln p) <= 5, p < 0.075",
    "ef": "-Phi^-1(p) = E(r - 5) / F(r - 5), r = sqrt(-ln p) > 5",
}


@dataclass
class Table:
    name: str
    kind: str  # "float" or "double"
    comment: str
    values: list


def build():
    """All tables, in the order of the files."""
    tables = []

    def add(name, kind, comment, result):
        values, error = result
        tables.append(Table(name, kind, f"{comment}; relative error {error:.1e}", values))

    half = mpf(1) / 2
    tail = fitted(float, mills, 0, mpf(1) / 16, 17, first=lambda value: 1.0)
    middle = mpf(TRUNC2_SHIFT)
    logarithm = "-2 ln(1 - y) = y P(y), y in (0, 1/2]"
    sine = "sin(pi x / 4) = x S(t), t = x^2, x in [-1, 1]"
    cosine = "cos(pi x / 4) = 1 + t C(t), t = x^2, x in [-1, 1]"
    add("normal_l", "float", logarithm, settled(NORMAL_L, log_quotient, 0, half))
    add("normal_s", "float", sine, fitted(to_float32, sine_quotient, 0, 1, 4))
    add("normal_c", "float", cosine, fitted(to_float32, cosine_quotient, 0, 1, 4, cosine_weight))
    add(
        "trunc2_p",
        "float",
        "z = v P(q), q = sqrt(1 - v^2 TRUNC2_SCALE) - TRUNC2_SHIFT, |v| <= 1",
        settled(TRUNC2_P, truncated_quotient, mp.sqrt(1 - mpf(TRUNC2_SCALE)) - middle, 1 - middle),
    )
    add("icdf", "float", "|z| = P_k(s) on octave k, s in [-1, 0); row = degree, column = octave", fit_icdf())
    add("normal64_l", "double", logarithm, fitted(float, log_quotient, 0, half, 20))
    add("normal64_s", "double", sine, fitted(float, sine_quotient, 0, 1, 7))
    add("normal64_c", "double", cosine, fitted(float, cosine_quotient, 0, 1, 7, cosine_weight))
    add("tail_n", "double", "x M(x) = N(t), t = 1 / x^2 in (0, 1/16]", tail)
    for region, comment in AS241_REGIONS.items():
        for letter in region:
            values = [float(word) for word in AS241[letter].split()]
            tables.append(Table(f"as241_{letter}", "double", f"AS 241: {comment}", values))
    return tables


# --- the files -----------------------------------------------------------------------------------------------------

SCALARS = [
    ("TWO_LN2", "double", TWO_LN2, "2 ln 2"),
    ("TWO_LN2_F", "float", TWO_LN2_F, "2 ln 2 rounded to float32"),
    ("TRUNC2_SCALE", "float", TRUNC2_SCALE, "erf(sqrt 2)^2 rounded to float32"),
    ("TRUNC2_SHIFT", "float", TRUNC2_SHIFT, "near the middle of the square root's range"),
]


def short_hex(value):
    """float.hex without trailing zeros: 0x1.8p+0, 0x0p+0."""
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').removesuffix('.') if '.' in mantissa else mantissa}p{exponent}"


def literals(values, kind):
    return ", ".join(short_hex(value) + ("f" if kind == "float" else "") for value in values)


def wrap(text, indent):
    return textwrap.fill(text, 118, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def render_c(tables):
    lines = ["/* Coefficients of stream v1. Written by coefficients.py: do not edit. */", ""]
    lines += ["#ifndef FASTINIT_TABLES_H", "#define FASTINIT_TABLES_H", ""]
    for name, kind, value, comment in SCALARS:
        lines.append(f"#define FASTINIT_{name} {literals([value], kind)} /* {comment} */")
    lines += ["", "/* Numbers of coefficients. */"]
    for table in tables:
        if table.kind == "double" and not table.name.startswith("as241"):
            lines.append(f"#define FASTINIT_{table.name.upper()} {len(table.values)}")
    for table in tables:
        nested = isinstance(table.values[0], list)
        shape = f"[{len(table.values)}]" + (f"[{len(table.values[0])}]" if nested else "")
        lines += ["", f"/* {table.comment} */", f"static const {table.kind} fastinit_{table.name}{shape} = {{"]
        if nested:
            lines += [f"    {{\n{wrap(literals(row, table.kind), ' ' * 8)}}}," for row in table.values]
        else:
            lines.append(wrap(literals(table.values, table.kind), " " * 4))
        lines.append("};")
    return "\n".join([*lines, "", "#endif", ""])


def render_python(tables):
    lines = ['"""Coefficients of stream v1.  Written by kernels/coefficients.py: do not edit."""', ""]
    lines += ["", "def _floats(text: str) -> tuple[float, ...]:"]
    lines += ["    return tuple(map(float.fromhex, text.split()))", "", ""]
    for name, _, value, comment in SCALARS:
        lines += [f"# {comment}", f'{name} = float.fromhex("{short_hex(value)}")']
    for table in tables:
        lines += ["", f"# {table.comment}"]
        rows = table.values if isinstance(table.values[0], list) else [table.values]
        texts = [wrap(" ".join(map(short_hex, row)), "    ") for row in rows]
        calls = [f'_floats("""\n{text}\n""")' for text in texts]
        value = calls[0] if rows is not table.values else "(\n" + "".join(f"    {call},\n" for call in calls) + ")"
        lines.append(f"{table.name.upper()} = {value}")
    return "\n".join([*lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 if a file differs")
    check = parser.parse_args().check
    mp.prec = PRECISION
    tables = build()
    stale = []
    for path, text in ((C_FILE, render_c(tables)), (PYTHON_FILE, render_python(tables))):
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"out of date: {', '.join(stale)}")


if __name__ == "__main__":
    main()
