"""Checks the content of a wheel or a source archive against the checkout: `python tools/archives.py dist/*`.

A wheel must have the package's Python files byte for byte, one compiled core and the licence, without tests and the
core's sources. A source archive must have all inputs of a build, without its outputs.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import runpy
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from email import message_from_string
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = re.compile(r"fastinit/_core\.[\w.-]*(?:so|pyd)")
ABOUT = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
BUILT = (".so", ".pyd", ".pyc", ".o", ".whl")
NEEDED = {"pyproject.toml", "meson.build", "README.md", "LICENSE", "tools/list_sources.py", "PKG-INFO"}


def package() -> dict[str, bytes]:
    """The required files of a wheel, by their names in it."""
    lines = StringIO()
    with redirect_stdout(lines):
        runpy.run_path(str(ROOT / "tools/list_sources.py"))
    names = [*lines.getvalue().split(), "fastinit/py.typed"]
    return {re.sub("^adapters/", "fastinit/adapters/", name): (ROOT / name).read_bytes() for name in names}


def version() -> str:
    found = re.search(r"^\s*version: '([^']+)'", (ROOT / "meson.build").read_text("utf-8"), re.MULTILINE)
    assert found, "meson.build names the version"
    return found[1]


def differences(found: dict[str, bytes], wanted: dict[str, bytes]) -> Iterator[str]:
    """The missing files, and those that differ from the checkout."""
    for name, content in wanted.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name] != content:
            yield f"{name} is not the checkout's"


def wheel_problems(path: Path) -> Iterator[str]:
    """The problems of a wheel, one sentence each."""
    with zipfile.ZipFile(path) as file:
        found = {name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    about = f"fastinit_weights-{version()}.dist-info/"
    wanted = package() | {f"{about}licenses/LICENSE": (ROOT / "LICENSE").read_bytes()}
    yield from differences(found, wanted)
    cores = [name for name in found if CORE.fullmatch(name)]
    if len(cores) != 1:
        yield f"one compiled core was expected, found {cores}"
    for name in sorted(found.keys() - wanted.keys() - set(cores) - {about + name for name in ABOUT}):
        yield f"{name} does not belong there"
    missing = [name for name in sorted(ABOUT) if about + name not in found]
    if missing:
        yield f"{about} lacks {', '.join(missing)}"
        return

    metadata = message_from_string(found[f"{about}METADATA"].decode())
    for field, value in (
        ("Name", "fastinit-weights"),
        ("Version", version()),
        ("License-Expression", "Apache-2.0"),
        ("License-File", "LICENSE"),
    ):
        if metadata[field] != value:
            yield f"METADATA: {field} is {metadata[field]!r}, expected {value!r}"
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    if [re.match(r"[\w-]+", line)[0] for line in required] != ["numpy"]:
        yield f"METADATA: NumPy alone should be required, found {required}"
    tags = message_from_string(found[f"{about}WHEEL"].decode()).get_all("Tag", [])
    if any(tag.endswith("-none-any") for tag in tags) or not tags:
        yield f"WHEEL: tags of one platform were expected, found {tags}"

    rows = {row[0]: row[1] for row in csv.reader(found[f"{about}RECORD"].decode().splitlines())}
    for name, content in found.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if name != f"{about}RECORD" and rows.get(name) != f"sha256={digest}":
            yield f"RECORD: {name} has another digest, or none"


def archive_problems(archive: Path) -> Iterator[str]:
    """The problems of a source archive, one sentence each."""
    with tarfile.open(archive) as file:
        found = {member.name: file.extractfile(member).read() for member in file if member.isfile()}
    top = f"fastinit_weights-{version()}/"
    for name in sorted(found):
        if not name.startswith(top):
            yield f"{name} is outside of {top}"
        elif name.endswith(BUILT):
            yield f"{name} is made by a build"
    inside = {name.removeprefix(top): content for name, content in found.items()}
    for name in sorted(NEEDED - inside.keys()):
        yield f"{name} is missing"
    wanted = {re.sub("^fastinit/adapters/", "adapters/", name): content for name, content in package().items()}
    for path in (ROOT / "fastinit").rglob("*.*"):
        if path.suffix in (".pyx", ".c", ".h"):
            wanted[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    yield from differences(inside, wanted)


def problems(path: Path) -> list[str]:
    """The problems of an archive of either kind; an empty list if it is correct."""
    if path.suffix == ".whl":
        return list(wheel_problems(path))
    if path.name.endswith(".tar.gz"):
        return list(archive_problems(path))
    return [f"{path.name} is no wheel (.whl) and no source archive (.tar.gz)"]


def main(names: list[str]) -> int:
    if not names:
        print("usage: python tools/archives.py ARCHIVE ...", file=sys.stderr)
        return 2
    wrong = {name: problems(Path(name)) for name in names}
    for name, found in wrong.items():
        print(*(f"{name}: {line}" for line in found or ["as it should be"]), sep="\n")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
