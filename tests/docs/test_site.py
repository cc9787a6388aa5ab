"""The site of `make docs`: every page opened in Chromium at two widths, its search, its colours, llms.txt."""

import functools
import http.server
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
# What a page shows: how wide it is, its links, its places, its pictures that did not load.
LOOK = """() => ({
    width: document.scrollingElement.scrollWidth,
    links: [...document.querySelectorAll("a[href]")].map(link => link.href),
    places: [...document.querySelectorAll("[id]")].map(place => place.id),
    empty: [...document.images].filter(image => !(image.complete && image.naturalWidth)).map(image => image.src),
})"""
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing: requests that fail are seen by the browser."""


def serving(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.fixture(scope="module")
def address():
    if not (SITE / "index.html").exists():
        pytest.skip("needs the site: make docs")
    server, place = serving(SITE)
    yield place
    server.shutdown()
    server.server_close()


def pages(folder):
    """The addresses of all pages, below the site's."""
    return sorted(page.relative_to(folder).as_posix() for page in folder.rglob("*.html") if page.name != "404.html")


def opened(browser, address, names, width):
    """What is wrong with each page: what its console says, what it fetches, how wide it is, where its links lead."""
    context = browser.new_context(viewport={"width": width, "height": 844})
    context.set_default_timeout(60_000)
    trouble, seen = {name: [] for name in names}, {}
    for name in names:
        wrong, tab = trouble[name], context.new_page()
        tab.on("console", lambda message, wrong=wrong: wrong.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error, wrong=wrong: wrong.append(f"error: {error}"))
        tab.on("requestfailed", lambda request, wrong=wrong: wrong.append(f"failed: {request.url}"))
        tab.on("request", lambda request, wrong=wrong: elsewhere(request.url, address, wrong))
        tab.on("response", lambda answer, wrong=wrong: wrong.append(answer.url) if answer.status >= 400 else None)
        tab.goto(address + name, wait_until="load")
        seen[name] = look = tab.evaluate(LOOK)
        if look["width"] > width:
            wrong.append(f"scrolls sideways: {look['width']} pixels at {width}")
        wrong += [f"no picture: {source}" for source in look["empty"]]
        tab.close()
    context.close()
    places = {address + name: set(look["places"]) for name, look in seen.items()}
    for name, look in seen.items():
        for link in set(look["links"]):
            there, place = urldefrag(link)
            if there.startswith(address):
                there = there + "index.html" if there.endswith("/") else there
                if there not in places or (place and unquote(place) not in places[there]):
                    trouble[name].append(f"broken link: {link.removeprefix(address)}")
    return {name: wrong for name, wrong in trouble.items() if wrong}


def elsewhere(url, address, wrong):
    if not url.startswith((address, "data:", "blob:")):
        wrong.append(f"fetches {url}")


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_opens_without_complaint(browser, address, width):
    names = pages(SITE)
    assert len(names) > 40
    assert not opened(browser, address, names, width)


def test_the_search_finds_what_the_reference_explains(browser, address):
    tab = browser.new_page(viewport={"width": 1280, "height": 844})
    tab.goto(address + "start.html")
    tab.locator("input.md-search__input").fill("truncated_normal")
    tab.locator(".md-search-result__link").first.wait_for(timeout=60_000)
    found = tab.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    assert any("reference/" in link for link in found)
    assert not any("zoo.html" in link for link in found)  # thousands of rows: left out
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_has_a_switch(browser, address, scheme):
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    tab.goto(address + "start.html")

    def is_dark():
        colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) < 384

    tab.wait_for_function("document.body.dataset.mdColorScheme")
    assert is_dark() == (scheme == "dark")
    seen = set()
    for _ in range(3):
        tab.locator("form.md-header__option label:visible").first.click()
        seen.add(is_dark())
    assert seen == {True, False}
    context.close()


def test_every_entry_of_the_reference_is_rendered():
    if not (SITE / "reference").exists():
        pytest.skip("needs the site: make docs")
    for page in (ROOT / "docs/reference").glob("*.md"):
        made = (SITE / "reference" / page.with_suffix(".html").name).read_text("utf-8")
        names = re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
        assert [name for name in names if f'id="{name}"' not in made] == [], page.name


def test_llms_txt_lists_every_page():
    if not (SITE / "llms.txt").exists():
        pytest.skip("needs the site: make docs")
    text = (SITE / "llms.txt").read_text("utf-8")
    assert {name for name in re.findall(r"\]\(([^)]+\.html)\)", text)} == set(pages(SITE))
    assert text.startswith("# fastinit\n\n> ")


def test_the_check_of_pages_can_fail(browser, tmp_path):
    (tmp_path / "good.html").write_text("<title>good</title><link rel=icon href='data:,'><h1 id=top>good</h1>")
    (tmp_path / "bad.html").write_text(
        "<title>bad</title><link rel=icon href='data:,'><script>console.log('a word')</script>"
        "<script>throw Error('thrown')</script><div style='width: 2000px'>wide</div><img src=missing.png>"
        "<a href=good.html#bottom>place</a> <a href=good.html#top>fine</a> <a href=none.html>none</a>"
        "<script src='http://127.0.0.1:9/elsewhere.js'></script>"
    )
    server, place = serving(tmp_path)
    try:
        found = opened(browser, place, ["bad.html", "good.html"], 390)
    finally:
        server.shutdown()
        server.server_close()
    assert set(found) == {"bad.html"}
    words = "\n".join(found["bad.html"])
    for expected in (
        "console: a word",
        "error: thrown",
        "scrolls sideways",
        "no picture",
        "broken link: good.html#bottom",
        "broken link: none.html",
        "fetches http://127.0.0.1:9/elsewhere.js",
    ):
        assert expected in words
    assert "good.html#top" not in words
