"""The page: one file that needs nothing else, says everything in words, and is there whole or not at all."""

import math
import os
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

import fastinit
from fastinit.reports import charts
from fastinit.reports.pages import named, page, remedies, write_page

STACKS = {
    "healthy": {},
    "vanishing": {"initializer": fastinit.Normal(0.0, 1e-3), "depth": 30},
    "exploding": {"initializer": fastinit.Normal(), "depth": 30},
    "symmetric": {"initializer": fastinit.Zeros()},
    "overflow": {"initializer": fastinit.Normal(0.0, 1e20), "depth": 30},
    "underflow": {"initializer": fastinit.Normal(0.0, 1e-20), "depth": 30},
    "one layer": {"depth": 1},
    "one unit": {"depth": 3, "width": 1},
    "deep": {"depth": 300, "width": 4},
    "bounded": {"activation": "tanh", "initializer": fastinit.Normal(0.0, 0.5)},
}


@cache
def stack(name):
    given = {"activation": "relu", "initializer": fastinit.he_normal(), "depth": 12, "width": 32} | STACKS[name]
    widths = [given["width"]] * (given["depth"] + 1)
    return fastinit.propagate(widths, given["activation"], given["initializer"], key=fastinit.Key(0), batch=32)


VOID = {"meta", "link", "img", "br", "hr", "input", "rect", "line", "circle", "path"}


class Reading(HTMLParser):
    """The elements of a page, with their nesting checked."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), tag
        if tag not in VOID or tag in ("rect", "path"):  # of SVG these close themselves, or hold a title
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.text[tag] = self.text.get(tag, "") + data

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.attributes if attribute in attributes]


@pytest.fixture(params=STACKS)
def found(request):
    return stack(request.param)


@pytest.fixture
def read(found):
    return Reading(page(found, command="fastinit check --depth 12", settings={"seed": 0}))


def test_it_is_whole_and_well_formed(found, read):
    assert read.tags[:2] == ["html", "head"]
    assert [tag for tag in ("title", "style", "h1", "main", "table", "footer", "dl") if tag not in read.tags] == []
    assert read.tags.count("figure") == 4
    assert read.tags.count("tr") == len(found) + 1
    assert found.verdict in read.text["strong"]
    assert found.reason[1:] in read.text["header"]
    assert "fastinit check --depth 12" in read.text["pre"]
    for fact in (
        fastinit.__version__,
        f"stream v{fastinit.STREAM_VERSION}",
        found.activation,
        named(found.initializer),
    ):
        assert fact in read.text["dl"]


def test_it_needs_nothing_else(found):
    text = page(found)
    assert not re.search(r"https?:|//\w|@import|url\(|<script|<link|<img|<iframe|\bsrc=|\bhref=|\bon\w+=", text)


def test_it_holds_no_number_that_a_browser_cannot_place(found):
    for svg in re.findall(r"<svg.*?</svg>", page(found), re.DOTALL):
        drawn = re.sub(r"<(title|desc|text)\b.*?</\1>", "", svg)
        assert not re.search(r"\b(nan|inf)\b", drawn)
        for x, y in re.findall(r'<circle[^>]*cx="([^"]+)" cy="([^"]+)"', drawn):
            assert 0 <= float(x) <= charts.WIDTH
            assert 0 <= float(y) <= charts.HEIGHT


def test_every_identity_is_there_once(read):
    identities = read.values("id")
    assert len(set(identities)) == len(identities)
    wanted = {
        one for name in ("aria-labelledby", "aria-describedby") for value in read.values(name) for one in value.split()
    }
    assert wanted <= set(identities)


def test_every_class_of_a_mark_has_a_style(read):
    style = read.text["style"]
    used = {one for tag, attributes in read.attributes for one in (attributes.get("class") or "").split()}
    assert not {one for one in used if f".{one}" not in style} - {"dead"}
    for variable in re.findall(r"var\((--\w+)\)", style):
        assert f"{variable}:" in style


def test_charts_are_named_for_those_who_do_not_see_them(read):
    for tag, attributes in read.attributes:
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
            assert attributes.get("role") != "img" or "aria-labelledby" in attributes
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert read.values("lang") == ["en"]


def test_the_table_holds_every_layer(found):
    rows = re.findall(r'<tr><th scope="row">(\d+)</th>(.*?)</tr>', page(found))
    assert [int(number) for number, _ in rows] == list(range(1, len(found) + 1))
    for (_, cells), layer in zip(rows, found, strict=True):
        values = re.findall(r"<td>(.*?)</td>", cells)
        assert values[0] == str(layer.width)
        for shown, value in ((values[1], layer.pre_variance), (values[4], layer.gradient_variance)):
            if math.isfinite(value):
                assert float(shown) == pytest.approx(value, rel=1e-3)
            else:
                assert shown == ("NaN" if math.isnan(value) else "∞")


def test_zeros_and_overflow_stand_on_strips_of_their_own():
    forward, backward = charts.curves(stack("overflow"))
    for curve in (forward, backward):
        drawn = charts.variance_chart(curve, "one", 100.0)
        assert ">∞<" in drawn
        assert drawn.count("<circle") == len(curve.names)
    assert ">0<" in charts.variance_chart(charts.curves(stack("symmetric"))[0], "one", 100.0)
    healthy = charts.variance_chart(charts.curves(stack("healthy"))[0], "one", 100.0)
    assert 'class="rail"' not in healthy


def test_the_key_explains_what_is_drawn():
    assert page(stack("healthy")).count("</svg> predicted") == 2
    zeros = page(stack("symmetric"))
    assert "</svg> predicted" not in zeros
    assert zeros.count("</svg> measured") == 2


def test_everything_is_escaped():
    evil = '<script>alert("&")</script>'
    found = replace(stack("healthy"), activation=evil, verdict=evil, reason=evil)
    text = page(found, command=evil, settings={evil: evil})
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert evil in Reading(text).text["pre"]


def test_shares_have_levels():
    assert [charts.level(share) for share in (0.0, 1e-9, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0)] == [0, 1, 1, 3, 5, 7, 9, 9]
    assert charts.level(1.0) == charts.LEVELS


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], (-2, 2)), ([0.0, math.inf, math.nan], (-2, 2)), ([1e-5, 1e5], (-5, 5)), ([5e-324, 1.7e308], (-324, 309))],
)
def test_decades(values, expected):
    assert charts.decades(values) == expected


@pytest.mark.parametrize("value", [1.0, 0.3, 12.0, 1e-300])
def test_one_size_is_in_the_middle_of_four_decades(value):
    low, high = charts.decades([value])
    assert 10.0**low <= value <= 10.0**high
    assert high - low == 4


def test_the_advice():
    assert remedies(stack("healthy"))[0].startswith("No change needed: this is the recommended initializer for relu")
    assert "he_normal" in remedies(stack("vanishing"))[0]
    # what is recommended, and still not healthy
    assert "depth" in remedies(replace(stack("healthy"), verdict="exploding"))[1]
    assert "fastinit.recommend" in remedies(replace(stack("exploding"), activation="my own"))[0]
    assert remedies(replace(stack("healthy"), activation="my own")) == []


def test_what_an_audit_gives_can_be_drawn():
    class Measured:
        def __init__(self, name, variance, gradient_variance):
            self.name, self.variance, self.gradient_variance = name, variance, gradient_variance

    class Audit:
        layers = (Measured("stem", 1.0, None), Measured("head", 2.0, 0.5))

    forward, backward = charts.curves(Audit)
    assert (forward.names, forward.measured, forward.predicted) == (("stem", "head"), (1.0, 2.0), ())
    assert (backward.names, backward.start) == (("head",), 0.5)
    assert "layer stem: measured 1" in charts.variance_chart(forward, "one", 100.0)
    with pytest.raises(ValueError, match="expected at least 1 layer"):
        charts.curves(type("Nothing", (), {"layers": ()}))


# Files


def test_a_page_is_written_and_replaced(tmp_path):
    path = tmp_path / "café <1>.html"
    for name in ("vanishing", "healthy"):
        write_page(stack(name), path)
    assert path.read_text(encoding="utf-8") == page(stack("healthy"))
    assert os.listdir(tmp_path) == [path.name]


def test_a_page_has_the_permissions_of_a_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_page(stack("healthy"), str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "page.html").symlink_to(tmp_path / "there" / "real.html")
    write_page(stack("healthy"), tmp_path / "page.html")
    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "there" / "real.html").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "file"])
def test_where_no_page_can_be_written(tmp_path, kind):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    path = {"missing": tmp_path / "no" / "page.html", "folder": tmp_path / "folder", "file": tmp_path / "file/x.html"}[
        kind
    ]
    with pytest.raises(OSError, match=re.escape(str(path))):
        write_page(stack("healthy"), path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("nothing is read-only to this user")
        with pytest.raises(PermissionError, match=re.escape(str(tmp_path / "page.html"))):
            write_page(stack("healthy"), tmp_path / "page.html")
    finally:
        tmp_path.chmod(0o700)
