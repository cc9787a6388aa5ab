"""The ``fastinit`` command: checks a network, prints gains, and recommends initializers.

::

    fastinit check --depth 50 --width 512 --activation gelu --init he_normal
    fastinit gain gelu
    fastinit recommend gelu --layer residual --depth 24
    fastinit checkpoint config.json out/ --dtype bfloat16  # and verify, diff, show: see checkpoints/commands.py

``check`` prints the variances of all layers and the verdict, and writes a page, ``fastinit-check.html``. The exit
status is 0 for every verdict. With ``--strict`` it is 1 if the network is not healthy. It is 2 for bad arguments and
for files that cannot be written.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, NoReturn

import fastinit
from fastinit.advice.activations import activation_named, checked_parameters
from fastinit.advice.recommending import LAYERS
from fastinit.checkpoints.commands import add_commands
from fastinit.checks import shown
from fastinit.files import Outlet
from fastinit.models.configs import encoded
from fastinit.presets import ALIASES, PRESETS
from fastinit.reports.pages import named, remedies
from fastinit.reports.pages import page as page_text

__all__ = ["initializer_named", "main"]

PAGE: Final = "fastinit-check.html"
COLOURS: Final = {"healthy": "32", "vanishing": "33", "exploding": "31", "symmetric": "35"}


def _uniform(low: float, high: float) -> fastinit.Uniform:
    return fastinit.Uniform(low, high)  # without Uniform's default bounds


# Values of --init besides presets: the syntax, and a function of the numbers after the colon.
WRITTEN: Final[dict[str, tuple[str, Callable[..., Any]]]] = {
    "zeros": ("zeros", fastinit.Zeros),
    "ones": ("ones", fastinit.Ones),
    "normal": ("normal:std", lambda std: fastinit.Normal(0.0, std)),
    "uniform": ("uniform:low,high", _uniform),
    "orthogonal": ("orthogonal or orthogonal:gain", fastinit.Orthogonal),
    "naive_normal": ("naive_normal", fastinit.naive_normal),
    "naive_uniform": ("naive_uniform", fastinit.naive_uniform),
}


def initializer_named(text: str, activation: str, negative_slope: float | None = None) -> Any:
    """Parses the value of --init: a preset or its alias, ``auto``, ``zeros``, ``normal:std``, ``uniform:low,high``,
    ``orthogonal`` or ``orthogonal:gain``.

    ``auto`` is the recommendation of :func:`fastinit.recommend` for the activation. ``auto`` and the schemes of He et
    al. use the activation's negative slope.

    >>> initializer_named("uniform:-0.5,0.5", "relu")
    Uniform(low=-0.5, high=0.5)

    Raises
    ------
    ValueError
        If the name is unknown (the error suggests similar names), or numbers are missing or out of range.
    """
    head, colon, rest = text.partition(":")
    name = head.strip().lower().replace("-", "_")
    if name == "auto" and not colon:
        return fastinit.recommend(activation, negative_slope=negative_slope).initializer
    preset = PRESETS.get(ALIASES.get(name, name))
    if preset is not None and not colon:
        return preset(negative_slope=negative_slope) if negative_slope and preset.takes_slope else preset()
    if name not in WRITTEN:
        known = sorted({"auto", *PRESETS, *ALIASES, *WRITTEN})
        if name in known:
            raise ValueError(f"{name} does not take numbers, got {shown(text)}")
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"init must be one of {', '.join(known)}; got {shown(text)}{hint}")
    form, kind = WRITTEN[name]
    try:
        return kind(*(float(number) for number in rest.split(",")) if colon else ())
    except (TypeError, ValueError) as problem:
        detail = "" if isinstance(problem, TypeError) or "could not convert" in str(problem) else f": {problem}"
        raise ValueError(f"expected {form}, got {shown(text)}{detail}") from None


# Arguments


def _at_least_one(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, got {shown(text)}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _any_integer(text: str) -> int:
    for base in (10, 0):  # decimal, then hexadecimal, which may have any length
        with suppress(ValueError):
            return int(text, base)
    limit = f"; write more than {sys.get_int_max_str_digits()} digits in hexadecimal, 0x..."
    raise argparse.ArgumentTypeError(f"must be an integer, got {shown(text)}{limit * text.strip('+-').isdecimal()}")


class _Version(argparse.Action):
    """Prints the versions. An action, because finding the target runs the kernels."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        targets = fastinit.targets
        print(f"fastinit {fastinit.__version__}, stream v{fastinit.STREAM_VERSION}")
        print(f"target {targets.current()}, of {', '.join(targets.supported())} that this machine runs")
        print(f"built for {', '.join(targets.compiled())}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastinit", description="Weight initialization.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="the library, the stream and the targets")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="check whether the signal survives the depth of a network",
        description="Runs a fully connected network forward and backward, prints the variances of all layers and a "
        "verdict, and writes a page. The exit status is 0 for every verdict, unless --strict is given.",
    )
    check.add_argument("--depth", type=_at_least_one, required=True, help="number of layers")
    check.add_argument("--width", type=_at_least_one, required=True, help="units per layer")
    check.add_argument("--inputs", type=_at_least_one, metavar="N", help="inputs of the first layer (the width)")
    check.add_argument("--activation", required=True, help="relu, gelu, tanh, ...")
    check.add_argument(
        "--init",
        required=True,
        metavar="NAME",
        help="a preset such as he_normal, auto, zeros, ones, normal:std, uniform:low,high, orthogonal, orthogonal:gain",
    )
    check.add_argument("--negative-slope", type=float, metavar="X", help="for leaky_relu and prelu (0.01 and 0.25)")
    check.add_argument("--seed", type=_any_integer, default=0, help="an integer of any size (0)")
    check.add_argument("--batch", type=_at_least_one, default=256, help="examples (256)")
    pages = check.add_mutually_exclusive_group()
    pages.add_argument("--page", metavar="FILE", default=PAGE, help=f"file of the page ({PAGE})")
    pages.add_argument("--no-page", action="store_const", const=None, dest="page", help="do not write a page")
    check.add_argument("--picture", metavar="FILE", help="also write a picture, .png or .svg; needs matplotlib")
    check.add_argument("--json", metavar="FILE", help="also write all numbers as JSON")
    check.add_argument("--strict", action="store_true", help="exit status 1 if the network is not healthy")
    check.set_defaults(run=_check)

    gain = commands.add_parser("gain", allow_abbrev=False, help="the gain of an activation, forward and backward")
    gain.add_argument("activation")
    gain.add_argument("--negative-slope", type=float, metavar="X", help="for leaky_relu and prelu")
    gain.set_defaults(run=_gain)

    advice = commands.add_parser("recommend", allow_abbrev=False, help="recommend an initializer for an activation")
    advice.add_argument("activation", help="the activation after the layer, or none")
    advice.add_argument("--layer", choices=LAYERS, default="dense")
    advice.add_argument("--depth", type=_at_least_one, help="number of residual branches, for --layer residual")
    advice.add_argument("--negative-slope", type=float, metavar="X", help="for leaky_relu and prelu")
    advice.set_defaults(run=_recommend)
    add_commands(commands, lambda text: initializer_named(text, "linear"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments, by default the process's, and returns its exit status."""
    # the caller may have closed the streams: `fastinit ... >&-`
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a replaced stream may lack reconfigure()
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError as problem:  # `fastinit check ... | head`
        if problem.filename is not None:
            return _failed(options, problem)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except (ImportError, MemoryError, OSError, OverflowError, TypeError, ValueError) as problem:
        return _failed(options, problem)


def _failed(options: argparse.Namespace, problem: BaseException) -> int:
    print(f"fastinit {options.command}: error: {problem or 'not enough memory'}", file=sys.stderr)
    return 2


# The commands


def _check(options: argparse.Namespace) -> int:
    name, _ = activation_named(options.activation)
    slope = options.negative_slope
    checked_parameters(name, {} if slope is None else {"negative_slope": slope})
    initializer = initializer_named(options.init, name, slope)
    _affordable(options)
    _distinct(options)
    widths = [options.inputs or options.width, *[options.width] * options.depth]
    settings = {"depth": options.depth, "width": options.width, "inputs": widths[0]}
    settings |= {"seed": options.seed, "batch": options.batch}
    if slope is not None:
        settings["negative_slope"] = slope
    with ExitStack() as files:
        # open every file first, so that an error cannot lose the work
        page, picture, numbers = (
            path and files.enter_context(Outlet(path)) for path in (options.page, options.picture, options.json)
        )
        if picture:
            from fastinit.reports.pictures import draw, picture_bytes, picture_format

            kind = picture_format(options.picture)
        found = fastinit.propagate(
            widths, name, initializer, key=fastinit.Key(options.seed), batch=options.batch, negative_slope=slope
        )
        # make all outputs before writing the first
        made: list[tuple[Outlet, bytes | str]] = []
        if page:
            shown_settings = settings | {"seed": _written(options.seed)}
            made.append((page, page_text(found, command=_command(options), settings=shown_settings)))
        if picture:
            made.append((picture, picture_bytes(draw(found), kind)))
        if numbers:
            head = {"version": fastinit.__version__, "stream_version": fastinit.STREAM_VERSION, "init": options.init}
            numbered = {**head, **settings, "seed": encoded(options.seed), **found.as_dict()}
            made.append((numbers, json.dumps(numbered, indent=1, allow_nan=False) + "\n"))
        for outlet, data in made:
            outlet.write(data)
    print(_command(options))
    written = named(initializer, slope)
    print(f"{written}\n" if written != options.init else "")
    print(str(found).rpartition("\n")[0], end="\n\n")
    print(_coloured(found.verdict.upper(), COLOURS[found.verdict]))
    for line in (found.reason, *remedies(found)):
        print(_filled(line))
    for what, path in (("page", options.page), ("picture", options.picture), ("numbers", options.json)):
        if path:
            print(f"{what}: {os.path.abspath(path)}")
    return int(options.strict and found.verdict != "healthy")


def _command(options: argparse.Namespace) -> str:
    """The command that reproduces the check."""
    words = ["fastinit", "check"]
    for option in ("depth", "width", "inputs", "activation", "negative_slope", "init", "seed", "batch"):
        value = getattr(options, option)
        if value is not None and (option, value) not in (("seed", 0), ("batch", 256)):
            words.append(f"--{option.replace('_', '-')}")
            words.append(_written(value) if option == "seed" else str(value))
    return shlex.join(words)


def _written(seed: int) -> str:
    """A seed as --seed reads it, in hexadecimal if it is too long for decimal conversion."""
    return str(encoded(seed)["integer"] if isinstance(encoded(seed), dict) else seed)


def _distinct(options: argparse.Namespace) -> None:
    """Raises ValueError if two options name the same file, so that the first would be lost."""
    given = [path for path in (options.page, options.picture, options.json) if path]
    files = [os.path.realpath(path) for path in given if os.path.isfile(path) or not os.path.exists(path)]
    if len(set(files)) < len(files):
        raise ValueError(f"--page, --picture and --json must be different files, got {', '.join(given)}")


def _affordable(options: argparse.Namespace) -> None:
    """Raises MemoryError if the check would need more memory than the machine has."""
    elements = 6 * options.batch * options.width * options.depth + options.width * (options.inputs or options.width)
    with suppress(AttributeError, OSError, ValueError):  # the system may not report its memory
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if 8 * elements > have:
            need = f"{8 * elements / 2**30:,.0f} GiB of memory, this machine has {have / 2**30:,.0f}"
            raise MemoryError(f"it would take about {need}: lower --batch, --width or --depth")


def _filled(text: str, indent: str = "") -> str:
    columns = max(40, min(shutil.get_terminal_size().columns, 100))
    return textwrap.fill(
        text, columns, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def _coloured(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[1;{colour}m{text}\033[0m"


def _gain(options: argparse.Namespace) -> int:
    parameters = {} if options.negative_slope is None else {"negative_slope": options.negative_slope}
    forward = fastinit.gain(options.activation, **parameters)
    backward = fastinit.backward_gain(options.activation, **parameters)
    print(f"forward   {forward:.10g}   keeps the variance of the signal: 1 / sqrt(E[f(z)^2])")
    print(f"backward  {backward:.10g}   keeps the variance of gradients: 1 / sqrt(E[f'(z)^2])")
    return 0


def _recommend(options: argparse.Namespace) -> int:
    activation = None if options.activation == "none" else options.activation
    slope = options.negative_slope
    found = fastinit.recommend(activation, options.layer, depth=options.depth, negative_slope=slope)
    print(named(found.initializer))
    for line in (found.reason, found.source):
        print(_filled(line, "  "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
