"""The dashboard: what it reads, the page it writes, and the page in a real browser."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FILL = "bench_summary.Fill.time_fill"
PLACES = """drawings => drawings.map(svg => {
    const box = svg.getBoundingClientRect(), part = name => svg.querySelector(name).getBoundingClientRect();
    return {title: svg.querySelector("title").textContent, left: box.left, right: box.right, height: box.height,
            dot: part(".point").left, one: part(".one").left, whisker: part(".whisker").width}})"""


@pytest.fixture
def modules(suite):
    return [suite(f"dashboard.{name}") for name in ("reading", "page", "__main__")]


def figure(what, samples, section="The last factor", peer="", bar=None, verdict="", skipped="", **others):
    value = sorted(samples)[len(samples) // 2] if samples else None
    job = section if peer else ""
    return {
        "section": section,
        "what": what,
        "job": job,
        "peer": peer,
        "unit": "x",
        "bar": bar,
        "samples": samples,
        "value": value,
        "verdict": verdict,
        "note": "2 ms; 4 ms",
        "skipped": skipped,
        "judged": True,
        **others,
    }


def record():
    """A race with every kind of row."""
    bar = {"limit": 0.7, "aim": 0.95, "less_is_better": False}
    under = {"limit": 2.0, "aim": None, "less_is_better": True}
    return {
        "date": "2026-11-26",
        "processor": "a processor",
        "load": "load 0.1",
        "threads": 2,
        "target": "x86_v4",
        "versions": {"fastinit": "0.1.0"},
        "heading": ["2026-11-26, a processor <&>", "fastinit 0.1.0"],
        "figures": [
            figure("uniform against memset", [0.9, 1.0, 1.1], bar=bar, verdict="aim"),
            figure("normal against memset", [0.5, 0.6, 0.7], bar=bar, verdict="no"),
            figure("a shard over the whole", [1.1, 1.2, 1.3], bar=under, verdict="yes"),
            figure("against a missing peer", [], bar=bar, verdict="skipped", skipped="it is not installed"),
            figure("torch", [17.0, 18.0, 20.0], "uniform float32", "torch"),
            figure("MKL", [0.4, 0.5, 0.8], "uniform float32", "MKL"),
            figure("torch", [9.0, 10.0, 11.0], "normal float64", "torch"),
            figure("JAX", [], "normal float64", "JAX", skipped="jax is not installed"),
        ],
    }


def published(folder, commits, environments=("python-3.11",)):
    """A site such as asv publishes, for so many commits; the last one makes the normal fill slower."""
    revisions = range(7, 7 + commits)
    tagged = 3  # a revision that asv knows by its tag, of which nobody measured anything
    index = {
        "revision_to_hash": {str(r): f"{r:040x}" for r in (tagged, *revisions)},
        "revision_to_date": {str(r): 1_700_000_000_000 + 86_400_000 * r for r in (tagged, *revisions)},
        "machines": {"vm": {"cpu": "a processor", "num_cpu": "2"}},
        "benchmarks": {
            FILL: {
                "unit": "seconds",
                "params": [["'uniform'", "'normal'"], ["'float32'"]],
                "param_names": ["distribution", "dtype"],
            },
            "bench_summary.OverMemset.track_time_over_memset": {"unit": "times memset's", "params": []},
            "bench_summary.Model.track_gigabytes_per_second": {"unit": "GB/s", "params": []},
        },
    }
    for environment in environments:
        graphs = folder / "graphs" / "arch-x86_64" / "branch-main" / environment
        graphs.mkdir(parents=True)
        fill = [[r, [0.01, 0.02 if r < revisions[-1] else 0.03]] for r in revisions]
        (graphs / f"{FILL}.json").write_text(json.dumps(fill))
        over = [[r, 1.25] for r in revisions]
        (graphs / "bench_summary.OverMemset.track_time_over_memset.json").write_text(json.dumps(over))
        rate = [[r, 4.0 if r < revisions[-1] else 6.0] for r in revisions]
        (graphs / "bench_summary.Model.track_gigabytes_per_second.json").write_text(json.dumps(rate))
    (folder / "index.json").write_text(json.dumps(index))
    jumps = [[None, revisions[-1], 0.02, 0.03]]
    regression = [f"{FILL}('normal', 'float32')", "path", {}, 1, 0.03, 0.02, jumps]
    (folder / "regressions.json").write_text(json.dumps({"regressions": [regression] if commits > 1 else []}))
    return folder


def test_values_are_read_commit_by_commit(modules, tmp_path):
    data, _, _ = modules
    site = data.read_site(published(tmp_path, 3))
    uniform, normal = (one for one in site.series if one.name == FILL)
    assert uniform.label == "uniform" and uniform.values == (0.01, 0.01, 0.01)
    assert uniform.change() == 1 and uniform.change(0) is None and uniform.verdict() == ""
    assert normal.values == (0.02, 0.02, 0.03) and normal.change() == pytest.approx(1.5)
    assert [normal.verdict(at) for at in range(3)] == ["", "", "worse"]
    assert normal.link == f"{FILL}?p-distribution=%27normal%27"
    (rate,) = (one for one in site.series if "per_second" in one.name)
    assert rate.verdict() == "better" and rate.label == ""
    assert [commit for commit, _ in site.commits] == list(normal.commits)  # and not the one that was only tagged
    (regression,) = site.regressions
    assert (regression.best, regression.last, regression.since) == (0.02, 0.03, normal.commits[-1:])
    assert regression.link == normal.link


def test_environments_are_not_mixed(modules, tmp_path):
    """What asv built is not what was installed already, which is one, whatever the interpreter is called."""
    site = modules[0].read_site(
        published(tmp_path, 2, ("python-3.11", "python-_a_bin_python", "python-_a_bin_python3"))
    )
    labels = [one.label for one in site.series if one.name == FILL]
    assert labels == [f"{what}, {how}" for how in ("python-3.11", "as installed") for what in ("uniform", "normal")]


def test_noise_is_what_asv_is_told(modules, tmp_path):
    settings = json.loads((ROOT / "benchmarks" / "asv.conf.json").read_text())
    thresholds = settings["regressions_thresholds"]
    assert {one.noise for one in modules[0].read_site(published(tmp_path, 3), thresholds).series} == {modules[0].NOISE}
    (tmp_path / "many").mkdir()
    site = modules[0].read_site(published(tmp_path / "many", 3), {".*": 0.1, rf"{FILL}\(.*normal": 0.6})
    assert [one.verdict() for one in site.series if one.name == FILL] == ["", ""]


def test_the_page_says_what_there_is(modules, tmp_path):
    data, page, _ = modules
    many = page.page(record(), data.read_site(published(tmp_path / "many", 3)))
    texts = (
        "reaches the aim",
        "missed",
        "it is not installed",
        "the peer wins: MKL (uniform float32)",
        "worse",
        "+50 %",
    )
    for text in (*texts, "&lt;&amp;&gt;", "2 of 3", "80 %", "under 2x", "2 ms; 4 ms", "1 worse", "1 better"):
        assert text in many, text
    assert f'href="asv/index.html#{FILL}?p-distribution=%27normal%27"' in many
    assert "nothing to compare" not in many and "http" not in many
    one = page.page(None, data.read_site(published(tmp_path / "one", 1)))
    assert "make race" in one and "One commit: nothing to compare yet." in one and "the peer wins" not in one


def test_values_have_units(modules):
    quantity = modules[1].quantity
    given = [(2.5, "seconds"), (0.0125, "seconds"), (3e-6, "seconds"), (4e-9, "seconds"), (2048, "bytes"), (5, "GB/s")]
    assert [quantity(*one) for one in given] == ["2.5 s", "12.5 ms", "3 us", "4 ns", "2 KiB", "5 GB/s"]
    assert quantity(3 * 2**20, "bytes") == "3 MiB"


BAR = {"limit": 0.7, "aim": 0.95, "less_is_better": False}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no list of figures"),
        ('{"figures": [], "heading": "one line"}', "heading is no list"),
        ('{"figures": [{}]}', "figure 0 has no samples"),
        (json.dumps({"figures": [figure("a row", [])]}), "neither samples nor a reason"),
        (json.dumps({"figures": [figure("a row", [1.0, float("nan")])]}), "no positive numbers"),
        (json.dumps({"figures": [figure("a row", [0.0])]}), "no positive numbers"),
        (json.dumps({"figures": [figure("a row", [1.0], value="1x")]}), "a value that is no positive number"),
        (json.dumps({"figures": [figure("a row", [1.0], verdict="perhaps")]}), "the verdict 'perhaps'"),
        (json.dumps({"figures": [figure("a row", [1.0], peer="torch", job="")]}), "a peer and no job"),
        (json.dumps({"figures": [figure("a row", [1.0], bar={**BAR, "limit": 0})]}), "without a positive limit"),
    ],
)
def test_a_malformed_record_is_refused(modules, tmp_path, text, says):
    data, _, dashboard = modules
    file = tmp_path / "race.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        data.read_race(file)
    arguments = ["--no-serve", "--race", str(file), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=f"^dashboard: .*{says}"):  # before anything is measured
        dashboard.main(arguments)
    assert not (tmp_path / "out").exists() and data.read_race(tmp_path / "none.json") is None


def test_nothing_published_is_said(modules, tmp_path):
    with pytest.raises(ValueError, match="asv has published nothing"):
        modules[0].read_site(tmp_path)


def test_a_port_that_is_taken_is_said(modules, tmp_path, monkeypatch):
    dashboard = modules[2]
    monkeypatch.setattr(dashboard, "build", lambda out, race: out / "index.html")
    with (
        dashboard.server(tmp_path, 0) as serving,
        pytest.raises(SystemExit, match="cannot serve on port"),
    ):
        port = str(serving.server_address[1])
        dashboard.main(["--no-run", "--port", port, "--out", str(tmp_path), "--race", str(tmp_path / "none.json")])


def repository(folder):
    """A repository of one commit with a tiny suite of asv's."""
    settings = {
        "version": 1,
        "project": "tiny",
        "repo": "..",
        "branches": ["main"],
        "benchmark_dir": ".",
        "environment_type": "virtualenv",
        "results_dir": "../results",
        "html_dir": "../html",
        "env_dir": "../env",
    }
    suite = folder / "benchmarks"
    suite.mkdir()
    (suite / "__init__.py").touch()
    (suite / "asv.conf.json").write_text(json.dumps(settings))
    (suite / "bench_tiny.py").write_text("def track_one():\n    return 3\n\ntrack_one.unit = 'things'\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return suite / "asv.conf.json"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("branch", ["main", "feature"])
def test_asv_publishes_what_the_page_reads(modules, tmp_path, monkeypatch, branch):
    """asv's real output, on the branch that asv knows and on another one."""
    pytest.importorskip("asv")
    data, _, dashboard = modules
    file = repository(tmp_path)
    if branch != "main":
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        for command in (["checkout", "-qb", branch], [*who, "commit", "-qm", "two", "--allow-empty"]):
            subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    commit = dashboard.git("rev-parse", "HEAD", root=tmp_path)
    asv = [sys.executable, "-m", "asv"]
    monkeypatch.setenv("HOME", str(tmp_path))  # where asv writes down machines
    for arguments in (
        ["machine", "--yes", "--machine", "m"],
        ["run", "--machine", "m", "--python=same", "--set-commit-hash", commit],
    ):
        done = subprocess.run([*asv, *arguments], cwd=file.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    settings = dashboard.configuration(file, tmp_path)
    assert settings["branches"] == (["main"] if branch == "main" else ["HEAD"])
    monkeypatch.setattr(dashboard, "configuration", lambda: settings)
    front = dashboard.build(tmp_path / "out", tmp_path / "none.json")
    assert "track_one" in front.read_text() and (front.parent / "asv" / "index.html").exists()
    site = data.read_site(front.parent / "asv")
    assert site.machine == "m"  # of one that is given by name asv knows nothing else
    (one,) = site.series
    assert (one.name, one.values, one.unit, one.commits) == ("bench_tiny.track_one", (3,), "things", (commit,))


@pytest.fixture
def browser():
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    options = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--disable-component-update",
        "--disable-sync",
    ]
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


def opened(browser, address, width, scheme="light"):
    """A tab with the page, and a list to which all trouble is added."""
    tab = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme).new_page()
    trouble = []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("requestfailed", lambda request: trouble.append(request.url))
    tab.on(
        "request", lambda request: None if request.url.startswith((address, "data:")) else trouble.append(request.url)
    )
    tab.on("response", lambda response: trouble.append(response.url) if response.status >= 400 else None)
    tab.goto(address)
    return tab, trouble


def visible(tab, rows):
    return tab.locator(f"{rows} li[data-text]:visible").count()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_graphs_draw(browser, address, width, scheme):
    tab, trouble = opened(browser, address, width, scheme)
    strips = tab.locator("#race svg").evaluate_all(PLACES)
    assert [one["title"].split(":")[0] for one in strips] == ["MKL", "torch", "torch"]  # the nearest first
    for one in strips:
        assert one["right"] - one["left"] > 60 and one["height"] >= 20 and one["whisker"] > 2
        assert one["left"] - 1 <= one["dot"] <= one["right"] + 1
        assert (one["dot"] > one["one"]) == ("fastinit is faster" in one["title"])
    assert len({round(one["one"] - one["left"]) for one in strips}) == 1  # one axis for all
    bars = tab.locator("#bars svg").evaluate_all(PLACES)
    assert [one["dot"] > one["one"] for one in bars] == [True, False, True]  # what is under its bar holds as well
    marks = tab.locator("#bars .mark").evaluate_all("marks => marks.map(mark => mark.getBoundingClientRect().width)")
    assert len(marks) == 2 and max(marks) < 2  # of the rows with an aim; upright
    sparks = tab.locator("#commits polyline.spark")
    assert sparks.count() == 4
    for points in sparks.evaluate_all("lines => lines.map(line => line.getAttribute('points'))"):
        pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
        assert len(pairs) == 3 and all(0 <= x <= 150 and 0 <= y <= 30 for x, y in pairs)
        assert [x for x, _ in pairs] == sorted({x for x, _ in pairs})
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) < 384) == (scheme == "dark")
    assert trouble == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_filters_hide_rows(browser, address, width):
    tab, trouble = opened(browser, address, width)
    tools = {name: tab.locator(f".tools[data-rows={name}]") for name in ("bars", "race", "commits")}

    assert visible(tab, "#bars") == 4
    missed = tools["bars"].get_by_role("button", name="missed")
    missed.focus()  # by the keyboard as well
    tab.keyboard.press("Enter")
    assert visible(tab, "#bars") == 1 and missed.get_attribute("aria-pressed") == "true"
    assert tools["bars"].locator("output").text_content() == "1 of 4"
    tab.keyboard.press("Space")
    assert visible(tab, "#bars") == 4
    tab.get_by_label("Filter the bars").fill("memset normal")
    assert visible(tab, "#bars") == 1

    tools["race"].get_by_role("button", name="the peer wins").click()
    assert visible(tab, "#race") == 1 and tab.locator("#race .card:visible").count() == 1
    tools["race"].get_by_role("button", name="normal float64").click()  # that job and won by the peer: none
    assert visible(tab, "#race") == 0 and tools["race"].locator("output").text_content() == "nothing like that here"
    for name in ("the peer wins", "normal float64"):
        tools["race"].get_by_role("button", name=name).click()
    tab.get_by_label("Filter peers").fill("torch")
    assert visible(tab, "#race") == 2
    note = tab.locator("#race .note:visible")
    assert note.count() == 0
    tools["race"].get_by_role("button", name="spread and times").click()
    assert note.count() == 2 and "2 ms; 4 ms" in note.first.text_content()

    assert visible(tab, "#commits") == 4
    tools["commits"].get_by_role("button", name="worse").click()
    assert visible(tab, "#commits") == 1
    tools["commits"].get_by_role("button", name="worse").click()
    tab.get_by_label("Filter benchmarks").fill("memset")
    assert visible(tab, "#commits") == 1
    tab.locator("#history summary", has_text="1 worse").click()
    assert tab.locator("#history a:visible").text_content() == "Fill.time_fill"
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    assert trouble == []
