"""The dashboard: runs the quick set of the suite, publishes it, and serves a page in front: ``make dashboard``.

The page shows the race (``build/race.json``, else the one of the documentation), the ratios to the machine's limit, and
every benchmark commit by commit; asv's own pages lie behind it in ``asv/``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fastinit.files import write_file

from ..bench_summary import QUICK
from . import page
from .reading import read_race, read_site

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parent


def asv(*arguments: str, fine: Sequence[int] = (0,)) -> int:
    """Runs asv in this folder; SystemExit with its code if that is none of the fine ones."""
    done = subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=BENCHMARKS, check=False)
    if done.returncode not in fine:
        raise SystemExit(done.returncode)
    return done.returncode


def git(*arguments: str, root: Path = ROOT) -> str:
    """What git says; nothing if it refuses."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def run() -> None:
    """Measures the quick set for the commit that is checked out."""
    commit = git("rev-parse", "HEAD")
    if not commit:
        raise SystemExit("dashboard: asv files what it measures by commit, and this is no git checkout; try --no-run")
    if git("status", "--porcelain", "--untracked-files=no"):
        print(f"dashboard: there are changes that {commit[:8]} does not have; they are measured under its name")
    asv("machine", "--yes")
    arguments = ("--python=same", "--set-commit-hash", commit, "--bench", QUICK, "--show-stderr")
    if asv("run", *arguments, fine=(0, 2)):  # 2: some failed, the others are there
        print("dashboard: some benchmarks failed, as said above; the page has the others", file=sys.stderr)


def configuration(file: Path = BENCHMARKS / "asv.conf.json", root: Path = ROOT) -> dict[str, Any]:
    """asv's configuration with absolute paths, for the branch that is checked out.

    asv publishes the commits of the branches that it is told of, and shows nothing of a commit that is on none of them.
    """
    settings = json.loads(file.read_text(encoding="utf-8"))
    for name in ("repo", "benchmark_dir", "env_dir", "results_dir", "html_dir"):
        settings[name] = str((file.parent / settings[name]).resolve())
    known = git("rev-list", "--first-parent", *settings["branches"], "--", root=root).split()
    if git("rev-parse", "HEAD", root=root) not in known:
        settings["branches"] = ["HEAD"]
    return settings


def build(out: Path, race: Path) -> Path:
    """Publishes what has been measured and writes the page in front; returns the page.

    Raises
    ------
    ValueError
        If the record of the race is malformed, or asv has nothing to publish.
    """
    record = read_race(race)
    settings = configuration()
    if not (Path(settings["results_dir"]) / "benchmarks.json").exists():
        raise ValueError("nothing has been measured yet: run it once without --no-run")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "asv.conf.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        asv("--config", str(file), "publish", "--no-pull", "--html-dir", str((out / "asv").resolve()))
    front = out / "index.html"
    site = read_site(out / "asv", settings.get("regressions_thresholds"))
    write_file(front, page.page(record, site))
    return front


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder as it is now, and logs no requests."""

    def end_headers(self) -> None:
        """Adds one header: a browser must not show the page of an earlier run."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        """Logs nothing."""


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder for this machine alone; port 0 lets the system choose."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))


def main(argv: Sequence[str] | None = None) -> None:
    recorded = ROOT / "build" / "race.json"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dashboard", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("--no-run", action="store_true", help="show what has been measured before")
    parser.add_argument("--no-serve", action="store_true", help="write the pages, and end")
    parser.add_argument("--port", type=int, default=8765, help="where to serve (default 8765)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "dashboard", metavar="FOLDER")
    parser.add_argument(
        "--race", type=Path, default=recorded if recorded.exists() else ROOT / "docs" / "race.json", metavar="FILE"
    )
    options = parser.parse_args(argv)
    try:
        read_race(options.race)  # before a minute of measuring
        if not options.no_run:
            run()
        front = build(options.out, options.race)
    except ValueError as error:
        raise SystemExit(f"dashboard: {error}") from None
    print(f"written: {front}")
    if options.no_serve:
        return
    try:
        serving = server(options.out, options.port)
    except OSError as error:
        raise SystemExit(f"dashboard: cannot serve on port {options.port}: {error}; try --port 0") from None
    with serving:
        print(f"http://127.0.0.1:{serving.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
