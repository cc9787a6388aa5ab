"""The dashboard: runs the quick set of the suite, publishes it, and serves a page in front: ``make dashboard``.

The page shows the race (``build/race.json``, else the one of the documentation), the ratios to the machine's limit, and
every benchmark commit by commit; asv's own pages lie behind it in ``asv/``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if __package__:
    from . import dashboard_page
    from .dashboard_data import read_race, read_site
else:  # run as a script
    import dashboard_page
    from dashboard_data import read_race, read_site

HERE = Path(__file__).parent
ROOT = HERE.parent
QUICK = r"^bench_summary[.]"  # bench_summary.py says what it has


def asv(*arguments: str) -> None:
    """Runs asv in this folder; SystemExit with its code if it fails."""
    done = subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=HERE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def run() -> None:
    """Measures the quick set for the commit that is checked out."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    asv("machine", "--yes")
    asv("run", "--python=same", "--set-commit-hash", commit.strip(), "--bench", QUICK, "--show-stderr")


def build(out: Path, race: Path) -> Path:
    """Publishes what has been measured and writes the page in front; returns the page.

    Raises
    ------
    ValueError
        If the record of the race is malformed, or asv has nothing to publish.
    """
    record = read_race(race)
    shutil.rmtree(out / "asv", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    asv("publish", "--html-dir", str((out / "asv").resolve()))
    front = out / "index.html"
    front.write_text(dashboard_page.page(record, read_site(out / "asv")), encoding="utf-8")
    return front


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder without a word for each request."""

    def log_message(self, *arguments: object) -> None:
        """Nothing: the page is looked at, not the terminal."""


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder for this machine alone; port 0 lets the system choose."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))


def main(argv: Sequence[str] | None = None) -> None:
    recorded = ROOT / "build" / "race.json"
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--no-run", action="store_true", help="show what has been measured before")
    parser.add_argument("--no-serve", action="store_true", help="write the pages, and end")
    parser.add_argument("--port", type=int, default=8765, help="where to serve (default 8765)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "dashboard", metavar="FOLDER")
    parser.add_argument(
        "--race", type=Path, default=recorded if recorded.exists() else ROOT / "docs" / "race.json", metavar="FILE"
    )
    options = parser.parse_args(argv)
    if not options.no_run:
        run()
    try:
        front = build(options.out, options.race)
    except ValueError as error:
        raise SystemExit(f"dashboard: {error}") from None
    print(f"written: {front}")
    if options.no_serve:
        return
    with server(options.out, options.port) as serving:
        print(f"http://127.0.0.1:{serving.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
