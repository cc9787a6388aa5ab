"""The dashboard: what it reads, the page it writes, and the page in a real browser."""

import importlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MODULES = ("dashboard_data", "dashboard_page", "dashboard")


@pytest.fixture
def modules(monkeypatch):
    """The three files, imported as the script imports them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield [importlib.import_module(name) for name in MODULES]
    for name in MODULES:
        del sys.modules[name]


def figure(what, samples, section="The last factor", peer="", bar=None, verdict="", skipped=""):
    value = sorted(samples)[len(samples) // 2] if samples else None
    job = section if peer else ""
    return {
        "section": section, "what": what, "job": job, "peer": peer, "unit": "x", "bar": bar, "samples": samples,
        "value": value, "verdict": verdict, "note": "2 ms; 4 ms", "skipped": skipped, "judged": True,
    }  # fmt: skip


def record():
    """A race with every kind of row."""
    bar = {"limit": 0.7, "aim": 0.95, "less_is_better": False}
    return {
        "date": "2026-11-26", "processor": "a processor", "load": "load 0.1", "threads": 2, "target": "x86_v4",
        "versions": {"fastinit": "0.1.0"}, "heading": ["2026-11-26, a processor <&>", "fastinit 0.1.0"],
        "figures": [
            figure("uniform against memset", [0.9, 1.0, 1.1], bar=bar, verdict="aim"),
            figure("normal against memset", [0.5, 0.6, 0.7], bar=bar, verdict="no"),
            figure("against a missing peer", [], bar=bar, verdict="skipped", skipped="it is not installed"),
            figure("torch", [17.0, 18.0, 20.0], "uniform float32", "torch"),
            figure("MKL", [0.4, 0.5, 0.8], "uniform float32", "MKL"),
            figure("torch", [9.0, 10.0, 11.0], "normal float64", "torch"),
            figure("JAX", [], "normal float64", "JAX", skipped="jax is not installed"),
        ],
    }  # fmt: skip


def published(folder, commits):
    """A site such as asv publishes, for so many commits."""
    graphs = folder / "graphs" / "arch-x86_64" / "branch-main"
    graphs.mkdir(parents=True)
    revisions = range(7, 7 + commits)
    index = {
        "revision_to_hash": {str(r): f"{r:040x}" for r in revisions},
        "revision_to_date": {str(r): 1_700_000_000_000 + r for r in revisions},
        "machines": {"vm": {"cpu": "a processor", "num_cpu": "2"}},
        "benchmarks": {
            "bench_summary.Fill.time_fill": {"unit": "seconds", "params": [["'uniform'", "'normal'"], ["'float32'"]]},
            "bench_summary.OverMemset.track_time_over_memset": {"unit": "", "params": []},
        },
    }
    (folder / "index.json").write_text(json.dumps(index))
    fill = [[r, [0.01, 0.02 if r < revisions[-1] else 0.03]] for r in revisions]
    (graphs / "bench_summary.Fill.time_fill.json").write_text(json.dumps(fill))
    over = [[r, 1.25] for r in revisions]
    (graphs / "bench_summary.OverMemset.track_time_over_memset.json").write_text(json.dumps(over))
    regression = ["bench_summary.Fill.time_fill(normal)", "path", {}, None, 0.03, 0.02, []]
    (folder / "regressions.json").write_text(json.dumps({"regressions": [regression] if commits > 1 else []}))
    return folder


def test_values_are_read_commit_by_commit(modules, tmp_path):
    data, _, _ = modules
    site = data.read_site(published(tmp_path, 3))
    (uniform, normal, over) = sorted(site.series, key=lambda one: one.label == "normal" or 2 * (one.label == ""))
    assert uniform.label == "uniform" and uniform.values == (0.01, 0.01, 0.01) and uniform.change == 1
    assert normal.values == (0.02, 0.02, 0.03) and normal.change == pytest.approx(1.5)
    assert over.label == "" and len(over.commits) == site.commits == 3
    assert site.regressions == (("bench_summary.Fill.time_fill(normal)", 0.02, 0.03),)


def test_the_page_says_what_there_is(modules, tmp_path):
    data, page, _ = modules
    many = page.page(record(), data.read_site(published(tmp_path / "many", 3)))
    for text in (
        "reaches the aim",
        "missed",
        "it is not installed",
        "the peer wins",
        "slower",
        "+50 %",
        "&lt;&amp;&gt;",
    ):
        assert text in many
    assert 'href="asv/index.html#bench_summary.Fill.time_fill"' in many
    assert "nothing to compare" not in many and "http" not in many.replace("http-equiv", "")
    one = page.page(None, data.read_site(published(tmp_path / "one", 1)))
    assert "make race" in one and "One commit: nothing to compare yet." in one and "the peer wins" not in one


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no list of figures"),
        ('{"figures": [{}]}', "figure 0 has no section"),
        (json.dumps({"figures": [figure("a row", [])]}), "neither samples nor a reason"),
        (json.dumps({"figures": [figure("a row", [1.0, float("nan")])]}), "no positive numbers"),
        (json.dumps({"figures": [figure("a row", [0.0])]}), "no positive numbers"),
    ],
)
def test_a_malformed_record_is_refused(modules, tmp_path, text, says):
    data, _, _ = modules
    (tmp_path / "race.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        data.read_race(tmp_path / "race.json")
    assert data.read_race(tmp_path / "none.json") is None


def test_nothing_published_is_said(modules, tmp_path):
    with pytest.raises(ValueError, match="asv has published nothing"):
        modules[0].read_site(tmp_path)


def test_asv_publishes_what_the_page_reads(modules, tmp_path):
    """asv's real output: a tiny benchmark, run and published in a repository of its own."""
    pytest.importorskip("asv")
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "bench_tiny.py").write_text("def track_one():\n    return 3\n\ntrack_one.unit = 'things'\n")
    configuration = {
        "version": 1, "project": "tiny", "repo": ".", "branches": ["main"], "benchmark_dir": "benchmarks",
        "environment_type": "virtualenv", "results_dir": "results", "html_dir": "html", "env_dir": "env",
    }  # fmt: skip
    (tmp_path / "asv.conf.json").write_text(json.dumps(configuration))
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "bench_tiny.py").rename(tmp_path / "benchmarks" / "bench_tiny.py")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    commands = [["git", "init", "-q", "-b", "main"], ["git", "add", "."], ["git", *who, "commit", "-qm", "one"]]
    for command in commands:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True)
    asv = [sys.executable, "-m", "asv"]
    for arguments in (
        ["machine", "--yes", "--machine", "m"],
        ["run", "--machine", "m", "--python=same", "--set-commit-hash", commit.stdout.strip()],
        ["publish"],
    ):
        done = subprocess.run([*asv, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (one,) = modules[0].read_site(tmp_path / "html").series
    assert (one.name, one.values, one.unit, one.commits) == (
        "bench_tiny.track_one",
        (3,),
        "things",
        (commit.stdout.strip(),),
    )


@pytest.fixture
def browser():
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    options = [
        "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def address(modules, tmp_path):
    """The page over a small site, served as `make dashboard` serves it."""
    data, page, dashboard = modules
    published(tmp_path / "asv", 3)
    (tmp_path / "index.html").write_text(page.page(record(), data.read_site(tmp_path / "asv")), encoding="utf-8")
    serving = dashboard.server(tmp_path, 0)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}/"
    serving.shutdown()
    serving.server_close()
    thread.join()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser, address, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    tab = context.new_page()
    trouble = []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("requestfailed", lambda request: trouble.append(request.url))
    tab.goto(address)

    # graphs draw: every peer's dot lies within its strip, right of the line at 1 where fastinit wins
    strips = tab.locator("#race svg.strip")
    assert strips.count() == 3
    for i in range(3):
        box = strips.nth(i).bounding_box()
        assert box["width"] > 60 and box["height"] >= 20
        dot, one = (float(strips.nth(i).locator(kind).get_attribute("x1")) for kind in (".point", ".one"))
        assert 0 <= dot <= 300
        assert (dot > one) == ("torch" in strips.nth(i).locator("title").text_content())
    assert tab.locator("#commits polyline.spark").count() == 3

    # filters hide rows
    def visible(rows):
        return tab.locator(f"{rows} li:visible").count()

    assert visible("#bars") == 3
    tab.get_by_role("button", name="missed").click()
    assert visible("#bars") == 1
    tab.get_by_role("button", name="missed").click()
    tab.get_by_label("Filter the bars").fill("memset normal")
    assert visible("#bars") == 1
    tab.get_by_role("button", name="the peer wins").click()
    assert visible("#race") == 1 and tab.locator("#race .card:visible").count() == 1
    tab.get_by_role("button", name="the peer wins").click()
    tab.get_by_label("Filter peers").fill("torch")
    assert visible("#race") == 2
    tab.get_by_label("Filter benchmarks").fill("memset")
    assert visible("#commits") == 1

    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) < 384) == (scheme == "dark")
    assert trouble == []
    context.close()
