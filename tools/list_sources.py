"""Prints the package's Python files, one per line, for ``meson.build`` to install."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

for folder in ("fastinit", "adapters"):
    for path in sorted((ROOT / folder).rglob("*")):
        inside = path.relative_to(ROOT)
        # the kernels' scripts are run by hand, and fastinit/adapters is a link for readers of the checkout
        if path.suffix in (".py", ".pyi") and "kernels" not in inside.parts and "adapters" not in inside.parts[1:]:
            print(inside.as_posix())
