"""The command as a person runs it: what it prints, what it writes, and what it says to what it cannot do."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import pytest

import fastinit
from fastinit.cli import _parser, initializer_named, main

PROGRAM = "import sys; from fastinit.cli import main; sys.exit(main())"
CHECK = ("check", "--depth", "6", "--width", "16", "--batch", "16")
RELU = ("--activation", "relu", "--init", "he_normal")


@pytest.fixture
def command(run_python, tmp_path, monkeypatch):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **environment):
        return run_python(PROGRAM, *arguments, **environment)

    return run


def test_the_check_of_the_readme(command, tmp_path):
    done = command("check", "--depth", "50", "--width", "512", "--activation", "gelu", "--init", "he_normal")
    assert (done.returncode, done.stderr) == (0, "")
    assert "VANISHING" in done.stdout
    assert "--init auto" in done.stdout
    assert f"page: {tmp_path / 'fastinit-check.html'}" in done.stdout
    page = (tmp_path / "fastinit-check.html").read_text(encoding="utf-8")
    command_line = "fastinit check --depth 50 --width 512 --activation gelu --init he_normal"
    assert command_line in page
    assert command_line in done.stdout
    for fact in ("<dt>seed</dt><dd><code>0</code>", "<dt>batch</dt><dd><code>256</code>"):
        assert fact in page


def test_every_file(command, tmp_path):
    pictures = ("--picture", "a.svg") if importlib.util.find_spec("matplotlib") else ()
    done = command(*CHECK, *RELU, "--seed", "7", "--inputs", "9", "--page", "a.html", "--json", "a.json", *pictures)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["a.html", "a.json", "a.svg"][: 2 + bool(pictures)]
    read = json.loads((tmp_path / "a.json").read_text())
    found = fastinit.propagate([9] + [16] * 6, "relu", fastinit.he_normal(), key=fastinit.Key(7), batch=16)
    given = {
        **{"version": fastinit.__version__, "stream_version": 1, "init": "he_normal", "depth": 6, "width": 16},
        **{"inputs": 9, "seed": 7, "batch": 16},
    }
    written = json.loads(json.dumps(found.as_dict()))
    for numbers in (read, written):  # sums may be taken in another order in another process
        for layer in numbers["layers"]:
            layer.update({name: pytest.approx(one, rel=1e-6) for name, one in layer.items() if type(one) is float})
        numbers["edges"] = pytest.approx(numbers["edges"])
    assert {name: read[name] for name in given} == given
    assert {name: type(one) for name, one in written.items()}.keys() <= read.keys()
    assert read["verdict"] == written["verdict"] == "healthy"
    assert [layer["histogram"] for layer in read["layers"]] == [layer["histogram"] for layer in written["layers"]]


def test_numbers_that_are_not_finite_are_null_in_json(command, tmp_path):
    done = command(*CHECK, "--activation", "relu", "--init", "normal:1e200", "--no-page", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    assert "EXPLODING" in done.stdout
    assert os.listdir(tmp_path) == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text())["layers"][-1]["pre_variance"] is None


@pytest.mark.parametrize(
    ("arguments", "verdict", "status"),
    [
        (RELU, "HEALTHY", 0),
        (("--activation", "relu", "--init", "zeros"), "SYMMETRIC", 1),
        (("--activation", "relu", "--init", "normal:1e-4"), "VANISHING", 1),
        (("--activation", "relu", "--init", "normal:10"), "EXPLODING", 1),
    ],
)
def test_the_exit_status(arguments, verdict, status, capsys):
    assert main([*CHECK, *arguments, "--no-page"]) == 0
    assert verdict in capsys.readouterr().out.splitlines()
    assert main([*CHECK, *arguments, "--no-page", "--strict"]) == status


def test_output_is_plain_and_narrow_where_there_is_no_terminal(command):
    for depth, init in (("60", "normal:1e3"), ("1", "orthogonal:1.4"), ("100", "normal:1e-9")):
        done = command("check", "--depth", depth, "--width", "16", "--activation", "relu", "--init", init, "--no-page",
                       COLUMNS="80", PYTHONIOENCODING="ascii")  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
        assert "\033" not in done.stdout
        assert all(len(line) <= 80 for line in done.stdout.splitlines()), max(done.stdout.splitlines(), key=len)


def test_a_path_that_the_encoding_does_not_have(command, tmp_path):
    done = command(*CHECK, *RELU, "--page", "café.html", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["café.html"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_the_shell_closed(closed, tmp_path):
    shell = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", PROGRAM]
    for arguments, status in (((*CHECK, *RELU), 0), (("check",), 2)):
        done = subprocess.run(
            [*shell, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
        )
        assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert (tmp_path / "fastinit-check.html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize(("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals(setting, coloured, tmp_path):
    pty = pytest.importorskip("pty")
    reader, writer = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")} | setting
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *CHECK, *RELU, "--no-page"],
        stdout=writer,
        check=False,
        env=environment,
        cwd=tmp_path,
        timeout=60,
    )
    os.close(writer)
    shown = b""
    try:
        while part := os.read(reader, 65536):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(reader)
    assert done.returncode == 0
    assert b"HEALTHY" in shown
    assert (b"\033[1;32mHEALTHY\033[0m" in shown) is coloured


def test_a_reader_that_goes_away(command, tmp_path):
    program = f"import os, sys\nreader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 1)\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program, *CHECK, *RELU],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (141, "")
    assert os.listdir(tmp_path) == ["fastinit-check.html"]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CHECK, "--activation", "gelo", "--init", "he_normal"), r"got 'gelo'; did you mean .*gelu"),
        ((*CHECK, "--activation", "relu", "--init", "he_norml"), r"got 'he_norml'; did you mean .*he_normal"),
        ((*CHECK, "--activation", "relu", "--init", "normal:"), "expected normal:std, got 'normal"),
        ((*CHECK, "--activation", "relu", "--init", "normal"), "expected normal:std, got 'normal"),
        ((*CHECK, "--activation", "relu", "--init", "normal:a"), "expected normal:std, got 'normal:a'"),
        ((*CHECK, "--activation", "relu", "--init", "normal:-1"), r"normal:-1.*std"),
        ((*CHECK, "--activation", "relu", "--init", "normal:1,2"), "expected normal:std, got 'normal"),
        ((*CHECK, "--activation", "relu", "--init", "uniform:2,1"), r"uniform:2,1.*low"),
        ((*CHECK, "--activation", "relu", "--init", "uniform"), "expected uniform:low,high, got 'uniform'"),
        ((*CHECK, "--activation", "relu", "--init", "he_normal:2"), "he_normal does not take numbers"),
        ((*CHECK, "--activation", "relu", "--init", "zeros:2"), "expected zeros, got 'zeros:2'"),
        (("check", "--depth", "0", "--width", "9", *RELU), "argument --depth: must be at least 1, got 0"),
        (("check", "--depth", "9", "--width", "0", *RELU), "argument --width: must be at least 1, got 0"),
        (("check", "--depth", "9", "--width", "-3", *RELU), "argument --width: must be at least 1, got -3"),
        (("check", "--depth", "x", "--width", "9", *RELU), "argument --depth: must be an integer, got 'x'"),
        (("check", "--depth", "9", *RELU), "required: --width"),
        ((*CHECK, *RELU, "--batch", "0"), "argument --batch: must be at least 1, got 0"),
        ((*CHECK, *RELU, "--inputs", "0"), "argument --inputs: must be at least 1, got 0"),
        ((*CHECK, *RELU, "--seed", "one"), "argument --seed"),
        ((*CHECK, *RELU, "--page", "a.html", "--no-page"), "not allowed with"),
        ((*CHECK, *RELU, "--page", "no/such/page.html"), "no/such/page.html"),
        ((*CHECK, *RELU, "--json", "."), "directory"),
        ((*CHECK, *RELU, "--no-page", "--picture", "a.gif"), r"\.png or \.svg"),
        (("check", "--depth", "1000000000", "--width", "100000", *RELU, "--no-page"), "GiB of memory.*lower --batch"),
        (("gain", "rellu"), "did you mean"),
        (("gain", "relu", "--negative-slope", "0.1"), r"expected parameters of relu \(none\), got negative_slope"),
        (("recommend", "rellu"), "did you mean"),
        (("recommend", "relu", "--layer", "residual"), "depth is required for a residual layer"),
        (("recommend", "relu", "--layer", "attention"), "--layer"),
        ((), "required"),
        (("chek",), "invalid choice"),
    ],
)
def test_bad_arguments(arguments, message, command, tmp_path, capsys):
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "")
    assert re.search(message, shown.err), shown.err
    assert "Traceback" not in shown.err
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_found_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fastinit, "propagate", lambda *_, **__: pytest.fail("the work was done for nothing"))
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("nothing is read-only to this user")
        assert main([*CHECK, *RELU]) == 2
        assert "fastinit-check.html" in capsys.readouterr().err
    finally:
        tmp_path.chmod(0o700)


def test_a_missing_folder_is_found_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fastinit, "propagate", lambda *_, **__: pytest.fail("the work was done for nothing"))
    assert main([*CHECK, *RELU, "--page", str(tmp_path / "no" / "page.html")]) == 2
    assert str(tmp_path / "no" / "page.html") in capsys.readouterr().err


def test_a_picture_without_matplotlib_says_so_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(fastinit, "propagate", lambda *_, **__: pytest.fail("the work was done for nothing"))
    assert main([*CHECK, *RELU, "--picture", "a.png"]) == 2
    assert "fastinit-weights[plots]" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


# Names


@pytest.mark.parametrize(
    ("text", "initializer"),
    [
        ("he_normal", fastinit.he_normal()),
        ("He-Normal", fastinit.he_normal()),
        ("kaiming_uniform", fastinit.he_uniform()),
        ("xavier_normal", fastinit.glorot_normal()),
        ("fan_in_normal", fastinit.lecun_normal()),
        ("auto", fastinit.recommend("gelu").initializer),
        ("zeros", fastinit.Zeros()),
        ("normal:0.02", fastinit.Normal(0.0, 0.02)),
        ("uniform:-0.5,0.25", fastinit.Uniform(-0.5, 0.25)),
        ("orthogonal", fastinit.Orthogonal()),
        ("orthogonal:1.5", fastinit.Orthogonal(1.5)),
        ("naive_normal", fastinit.naive_normal()),
        ("naive_uniform", fastinit.naive_uniform()),
    ],
)
def test_initializers_by_name(text, initializer):
    assert initializer_named(text, "gelu") == initializer


def test_every_preset_has_a_name():
    for name, preset in fastinit.PRESETS.items():
        assert initializer_named(name, "relu") == preset()


# The other commands


def test_gains(capsys):
    assert main(["gain", "leaky_relu", "--negative-slope", "0.2"]) == 0
    forward, backward = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines())
    assert forward == pytest.approx(math.sqrt(2 / 1.04), rel=1e-9)
    assert backward == pytest.approx(math.sqrt(2 / 1.04), rel=1e-4)


def test_recommendations(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recommend", "gelu", "--layer", "residual", "--depth", "24"]) == 0
    advice = fastinit.recommend("gelu", "residual", depth=24)
    shown = capsys.readouterr().out
    assert repr(advice.initializer.scale) in shown
    assert " ".join(shown.split()).endswith(f"{advice.reason} {advice.source}")
    assert max(map(len, shown.splitlines())) <= 80
    assert main(["recommend", "none"]) == 0
    assert capsys.readouterr().out.startswith("lecun_normal\n  nothing is lost")


def test_versions(command):
    done = command("--version")
    assert (done.returncode, done.stderr) == (0, "")
    for word in (f"fastinit {fastinit.__version__}", "stream v1", fastinit.targets.current(), "generic"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [("gain", "relu"), ("gain", "rellu"), ("--help",), ("check", *RELU)])
def test_it_runs_as_a_module(command, tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-m", "fastinit", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    same = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (same.returncode, same.stdout, same.stderr)
    assert done.returncode == (0 if arguments[-1] in ("relu", "--help") else 2)


SLOPE = ("--negative-slope", "0.2")


def test_a_negative_slope(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for init in ("he_normal", "kaiming_normal", "auto"):
        assert main([*CHECK, "--activation", "leaky_relu", *SLOPE, "--init", init, "--json", "a.json"]) == 0
        read = json.loads((tmp_path / "a.json").read_text())
        own = fastinit.he_normal(negative_slope=0.2)
        found = fastinit.propagate([16] * 7, "leaky_relu", own, key=fastinit.Key(0), batch=16, negative_slope=0.2)
        assert (read["initializer"], read["negative_slope"]) == (repr(own), 0.2)
        assert read["layers"][-1]["pre_variance"] == pytest.approx(found.layers[-1].pre_variance, rel=1e-6)
        # half of E[a^2] is kept in full, half of it by 0.04
        assert found.layers[1].predicted_variance == pytest.approx(found.layers[0].predicted_variance, rel=1e-3)
        shown = capsys.readouterr().out
        command_line = f"fastinit check --depth 6 --width 16 --activation leaky_relu --negative-slope 0.2 --init {init}"
        page = (tmp_path / "fastinit-check.html").read_text()
        for text in (shown, page):
            assert f"{command_line} --batch 16" in text
            assert "he_normal(negative_slope=0.2)" in text
            assert "leaky_relu of slope 0.2" in " ".join(text.split())
            assert "cut to 0.2 of its size" in " ".join(text.split())
    assert main([*CHECK, "--activation", "prelu", *SLOPE, "--init", "glorot_normal", "--no-page"]) == 0
    assert initializer_named("glorot_normal", "prelu", 0.2) == fastinit.glorot_normal()
    capsys.readouterr()
    for activation, slope, message in (
        ("relu", "0.2", "expected parameters of relu (none), got negative_slope"),
        ("leaky_relu", "inf", "must be finite"),
    ):
        arguments = ("--activation", activation, "--negative-slope", slope, "--init", "auto", "--no-page")
        assert main([*CHECK, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_seeds_of_any_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = hex(16**5000 + 7)
    assert main([*CHECK, *RELU, "--seed", text, "--json", "a.json"]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["seed"] == {"integer": text}
    assert f"--seed {text} --batch" in capsys.readouterr().out
    assert f"--seed {text} --batch" in (tmp_path / "fastinit-check.html").read_text()
    for given, number in (("-12", -12), ("007", 7), ("0x10", 16), ("9" * 600, 10**600 - 1)):
        assert main([*CHECK, *RELU, f"--seed={given}", "--no-page", "--json", "b.json"]) == 0
        assert json.loads((tmp_path / "b.json").read_text())["seed"] == number
    with pytest.raises(SystemExit):
        main([*CHECK, *RELU, "--seed", "9" * 5000])
    error = capsys.readouterr().err
    assert "write more than 4300 digits in hexadecimal, 0x..." in error and len(error) < 2000


@pytest.mark.parametrize("other", ["a.html", "./a.html", "link"])
def test_two_names_of_one_file(other, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("a.html")
    monkeypatch.setattr(fastinit, "propagate", lambda *_, **__: pytest.fail("the work was done for nothing"))
    assert main([*CHECK, *RELU, "--page", "a.html", "--json", other]) == 2
    assert "must be different files" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["link"]


def test_the_verdict_and_its_limit_stand_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for init, verdict, limit in (("he_normal", "HEALTHY", "1000"), ("normal:1e-3", "VANISHING", "1/1000")):
        assert main([*CHECK, "--activation", "relu", "--init", init]) == 0
        after = capsys.readouterr().out.partition(f"{verdict}\n")[2].replace("\n", " ")
        assert f"(limit {limit})" in after[:160]
        page = (tmp_path / "fastinit-check.html").read_text()
        assert f"(limit {limit})" in page.partition('<div class="verdict')[2].partition("</div>")[0]
    assert main([*CHECK, "--activation", "relu", "--init", "normal:3", "--no-page"]) == 0
    assert "(limit 1000)" in " ".join(capsys.readouterr().out.split())


def test_a_pipe_that_is_closed_is_an_error_of_its_file(command, tmp_path):
    program = "import os, sys\nreader, writer = os.pipe()\nos.close(reader)\nsys.argv[-1] += str(writer)\n" + PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", program, *CHECK, *RELU, "--no-page", "--json", "/dev/fd/"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Broken pipe: '/dev/fd/" in done.stderr


def test_help_names_every_option():
    parser = _parser()
    for text in (
        parser.format_help(),
        *(one.format_help() for one in parser._subparsers._group_actions[0].choices.values()),
    ):
        assert "usage: fastinit" in text
