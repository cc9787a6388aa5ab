"""The one way in which files are written: whole or not at all, and nothing but regular files is ever replaced.

No test writes to a device of the machine: terminals and named pipes are made for the test, and a device node only in a
folder of its own.
"""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import fastinit
from fastinit.files import Outlet, write_file
from fastinit.reports.pages import write_page
from fastinit.reports.pictures import draw

ROOT = os.geteuid() == 0
OLD = b"old contents"
BIG = bytes(range(256)) * 4096  # larger than a pipe holds


def record():
    entry = fastinit.Entry("a", (2,), "r", fastinit.Normal(), fastinit.Key(0))
    return fastinit.Record([entry], 0, "auto", "0.1.0")


def stack():
    return fastinit.propagate([4] * 4, "relu", fastinit.he_normal(), key=fastinit.Key(0), batch=4)


# Everything that writes a file for a caller, and how the file begins.
WRITERS = {
    "write_file": (lambda path: write_file(path, b"{ new"), b"{"),
    "record": (lambda path: record().save(path), b"{"),
    "page": (lambda path: write_page(stack(), path), b"<!DOCTYPE"),
    "picture": (lambda path: draw(stack(), path), b"<?xml"),
}


@pytest.fixture(params=WRITERS)
def writer(request):
    if request.param == "picture":
        pytest.importorskip("matplotlib")
    return WRITERS[request.param]


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def reads(path, size=1 << 24):
    """A thread that reads a pipe or a terminal until its other end is closed, and where it puts what it read."""
    found = bytearray()

    def run():
        descriptor = path if isinstance(path, int) else os.open(path, os.O_RDONLY)
        while len(found) < size:
            try:
                part = os.read(descriptor, 65536)
            except OSError:  # how a terminal says that the other end is closed
                break
            if not part:
                break
            found.extend(part)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


# Regular files


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path, writer):
    path = tmp_path / "out.svg"
    path.write_bytes(OLD)
    path.chmod(0o600)
    number = path.stat().st_ino
    write, start = writer
    write(path)
    assert path.read_bytes().startswith(start)
    assert mode(path) == 0o600
    assert path.stat().st_ino != number
    assert os.listdir(tmp_path) == ["out.svg"]


@pytest.mark.parametrize("permissions", [0o644, 0o640, 0o777, 0o601])
def test_every_mode_is_kept(tmp_path, permissions):
    path = tmp_path / "out"
    path.write_bytes(OLD)
    path.chmod(permissions)
    write_file(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", permissions)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_file(tmp_path / "out", b"new")
    finally:
        os.umask(before)
    assert mode(tmp_path / "out") == 0o666 & ~umask


@pytest.fixture
def open_folder():
    """A folder that every user may reach and write to; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.mark.skipif(not ROOT, reason="only root gives files away")
def test_the_owner_is_kept_and_of_others_files_no_rights_are_made_up(open_folder, run_python):
    path = open_folder / "out"
    path.write_bytes(OLD)
    os.chown(path, 1234, 2345)
    path.chmod(0o4750)
    write_file(path, b"newest")
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (1234, 2345, 0o4750)
    # by a user who may write, and can keep neither owner nor group
    path.chmod(0o4772)
    done = run_python(UNPRIVILEGED, str(path))
    assert (done.returncode, done.stdout) == (0, "written\n"), done.stderr
    assert path.read_bytes() == b"new"
    assert (path.stat().st_uid, mode(path)) == (3456, 0o722)  # no set-user-id, and the new group has what others had


def test_another_hard_link_keeps_the_old_contents(tmp_path):
    path = tmp_path / "one"
    path.write_bytes(OLD)
    os.link(path, tmp_path / "two")
    write_file(path, "new")
    assert (path.read_bytes(), (tmp_path / "two").read_bytes()) == (b"new", OLD)


def test_extended_attributes_are_kept(tmp_path):
    path = tmp_path / "one"
    path.write_bytes(OLD)
    try:
        os.setxattr(path, "user.note", b"mine")
    except (AttributeError, OSError):
        pytest.skip("no extended attributes here")
    write_file(path, "new")
    assert os.getxattr(path, "user.note") == b"mine"


@pytest.mark.parametrize("name", ["n" * 255, "café <1>.html", "-", " ", "a\nb", ".hidden", "x.part"])
def test_every_name_that_the_system_takes(tmp_path, name):
    for data in (b"one", b"two"):
        write_file(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data
    write_file(os.fsencode(tmp_path / name), "three")
    assert (tmp_path / name).read_bytes() == b"three"
    assert os.listdir(tmp_path) == [name]


def test_no_data_and_much_data(tmp_path):
    for data in (b"", BIG, "é" * 100_000):
        write_file(tmp_path / "out", data)
        assert (tmp_path / "out").read_bytes() == (data.encode() if isinstance(data, str) else data)


# Links


def test_a_link_is_followed_and_stays(tmp_path, writer):
    (tmp_path / "there").mkdir()
    for real, link in (("real.svg", "page.svg"), ("other.svg", "second.svg")):
        target = tmp_path / "there" / real
        if real == "real.svg":
            target.write_bytes(OLD)
            target.chmod(0o600)
        (tmp_path / link).symlink_to(os.path.join("there", real))  # the second one dangles
        writer[0](tmp_path / link)
        assert (tmp_path / link).is_symlink()
        assert target.read_bytes().startswith(writer[1])
    assert mode(tmp_path / "there" / "real.svg") == 0o600
    assert sorted(os.listdir(tmp_path / "there")) == ["other.svg", "real.svg"]


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "missing").symlink_to(tmp_path / "no" / "file")
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("circle", "missing", "folder"):
        with pytest.raises(OSError, match=re.escape(str(tmp_path / name))):
            write_file(tmp_path / name, b"new")
    assert sorted(os.listdir(tmp_path)) == ["circle", "folder", "missing"]


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    monkeypatch.setattr(os, "urandom", bytes)  # the name, as if it could be predicted
    (tmp_path / f".fastinit-{'00' * 12}.part").symlink_to(victim)
    (tmp_path / f"out.{os.getpid()}.part.html").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "out.html", b"new")
    assert victim.read_bytes() == OLD
    monkeypatch.undo()
    write_file(tmp_path / "out.html", b"new")
    assert victim.read_bytes() == OLD


# What is no regular file


def test_a_named_pipe_is_written_to(tmp_path, writer):
    path = tmp_path / "pipe.svg"
    os.mkfifo(path)
    thread, found = reads(path)
    writer[0](path)
    thread.join(30)
    assert found.startswith(writer[1])
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe.svg"]


def test_more_than_a_pipe_holds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    thread, found = reads(tmp_path / "pipe")
    write_file(tmp_path / "link", BIG)
    thread.join(30)
    assert found == BIG
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_terminal_is_written_to(writer, tmp_path):
    pty = pytest.importorskip("pty")
    reader, terminal = pty.openpty()
    name = os.ttyname(terminal)
    (tmp_path / "tty.svg").symlink_to(name)
    thread, found = reads(reader)
    writer[0](tmp_path / "tty.svg")
    os.close(terminal)
    thread.join(30)
    os.close(reader)
    assert found.startswith(writer[1])
    assert os.listdir(tmp_path) == ["tty.svg"]


@pytest.mark.skipif(not ROOT, reason="only root makes devices")
def test_a_device_stays_a_device(tmp_path, writer):
    path = tmp_path / "null.svg"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        pytest.skip("no devices can be made here")
    number = path.stat().st_ino
    writer[0](path)
    assert stat.S_ISCHR(path.lstat().st_mode)
    assert (path.stat().st_ino, path.stat().st_rdev) == (number, os.makedev(1, 3))
    assert os.listdir(tmp_path) == ["null.svg"]


@pytest.mark.skipif(not ROOT, reason="only root makes devices")
def test_block_devices_and_full_ones_are_refused(tmp_path):
    try:
        os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))
        os.mknod(tmp_path / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
        os.close(os.open(tmp_path / "full", os.O_WRONLY))
    except OSError:
        pytest.skip("no devices can be made here")
    with pytest.raises(OSError, match=r"block device.*disk"):
        write_file(tmp_path / "disk", b"new")
    with pytest.raises(OSError, match=r"No space.*full"):
        write_file(tmp_path / "full", b"new")
    assert sorted(os.listdir(tmp_path)) == ["disk", "full"]


def test_a_socket_is_refused_and_stays(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.svg")
        with pytest.raises(OSError, match=r"s\.svg"):
            writer[0]("s.svg")
        assert stat.S_ISSOCK(os.stat("s.svg").st_mode)
    assert os.listdir(tmp_path) == ["s.svg"]


OPENED = """
import os, sys
from fastinit.files import write_file
print("before")
for name in sys.argv[1:]:
    write_file(name, b"written\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/thread-self/fd/1"])
def test_a_redirected_output_is_written_to_where_it_stands(tmp_path, name):
    if not os.path.exists(name):
        pytest.skip(f"no {name}")
    (tmp_path / "link").symlink_to(name)
    command = [sys.executable, "-c", OPENED, name, str(tmp_path / "link")]
    with open(tmp_path / "out", "wb") as out:
        subprocess.run(command, stdout=out, check=True, timeout=60)
    assert (tmp_path / "out").read_text() == "before\nwritten\nwritten\nafter\n"
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert done.stdout == b"before\nwritten\nwritten\nafter\n"


def test_open_descriptors(tmp_path):
    one, other = socket.socketpair()
    with one, other:
        write_file(f"/dev/fd/{one.fileno()}", b"through a socket")
        assert other.recv(100) == b"through a socket"
        one.setblocking(False)
        thread, found = reads(other.fileno(), len(BIG))
        write_file(f"/dev/fd/{one.fileno()}", BIG)
        thread.join(30)
        assert found == BIG
        assert one.send(b"still open") == 10
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with open(path, "ab") as held:
        path.unlink()
        write_file(f"/dev/fd/{held.fileno()}", b", and new")  # a file that has no name any more
        assert os.pread(os.open(f"/proc/self/fd/{held.fileno()}", os.O_RDONLY), 100, 0) == OLD + b", and new"
    path.write_bytes(OLD)
    with open(path, "rb") as held, pytest.raises(OSError, match=f"/dev/fd/{held.fileno()}"):
        write_file(f"/dev/fd/{held.fileno()}", b"new")
    assert path.read_bytes() == OLD
    for name in ("/dev/fd/987", "/dev/fd/" + "9" * 40, "/dev/fd/x"):
        with pytest.raises(OSError, match=name):
            write_file(name, b"new")


# What cannot be written


def test_what_is_no_path():
    for path in (1, None, 1.5, ["a"], True):
        with pytest.raises(TypeError, match=r"os\.PathLike"):
            write_file(path, b"new")
        with pytest.raises(TypeError, match=r"os\.PathLike"):
            record().save(path)
    with pytest.raises(ValueError, match="null"):
        write_file("a\0b", b"new")


def test_folders_and_what_is_in_none(tmp_path, writer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").write_bytes(OLD)
    for path in ("folder.svg", "no/such.svg", "file/x.svg"):
        with pytest.raises(OSError, match=re.escape(path)):
            writer[0](path)
    for path in ("", ".", "..", "new/", "folder.svg/.", "folder.svg/", "gone/..", "x" * 256):
        with pytest.raises(OSError):
            write_file(path, b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.svg"]


UNPRIVILEGED = """
import os, sys
from fastinit.files import write_file
if os.geteuid() == 0:
    os.setgid(3456); os.setuid(3456)
try:
    write_file(sys.argv[1], b"new")
except PermissionError as problem:
    print(problem)
else:
    print("written")
"""


@pytest.mark.parametrize(
    ("folder", "file", "message"),
    [
        (0o555, 0o666, "its folder must be writable"),
        (0o777, 0o444, "Permission denied"),
        (0o777, 0o666, "written"),
        (0o333, 0o666, "written"),  # a folder that cannot be listed
    ],
)
def test_permissions(tmp_path_factory, run_python, folder, file, message):
    place = tmp_path_factory.mktemp("place")
    for above in list(place.parents)[:-2]:
        above.chmod(above.stat().st_mode | 0o011)
    (place / "file").write_bytes(OLD)
    (place / "file").chmod(file)
    place.chmod(folder)
    done = run_python(UNPRIVILEGED, str(place / "file"))
    place.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout
    assert message == "written" or str(place / "file") in done.stdout
    assert os.listdir(place) == ["file"]
    assert (place / "file").read_bytes() == (b"new" if message == "written" else OLD)


def test_what_cannot_be_encoded_leaves_the_old_file(tmp_path):
    class Own(fastinit.Initializer):
        pass

    path = tmp_path / "record.json"
    record().save(path)
    old = path.read_bytes()
    entry = fastinit.Entry("b", (2,), "r", Own(), fastinit.Key(0))
    with pytest.raises(TypeError, match="Own is not a class of fastinit"):
        fastinit.Record([entry], 0, "auto", "0.1.0").save(path)
    with pytest.raises(ValueError, match="surrogates"):
        write_file(path, "\udc80")
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["record.json"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(TypeError):  # and nobody is waited for
        fastinit.Record([entry], 0, "auto", "0.1.0").save(pipe)


def test_what_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_bytes(OLD)
    with pytest.raises(RuntimeError), Outlet(path):
        raise RuntimeError
    with Outlet(path):
        pass  # nothing is written
    for name in ("write", "fsync", "replace", "fchmod"):
        with monkeypatch.context() as patch:

            def full(*_):
                raise OSError(28, "No space left on device")

            patch.setattr(os, name, full)
            with pytest.raises(OSError, match=f"No space left.*{re.escape(str(path))}"):
                write_file(path, b"new")
        assert path.read_bytes() == OLD
        assert os.listdir(tmp_path) == ["page.html"]


def test_what_takes_the_place_of_the_file_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out"
    with Outlet(path) as outlet:
        os.mkfifo(path)
        with pytest.raises(FileExistsError, match="no longer a regular file"):
            outlet.write(b"new")
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert os.listdir(tmp_path) == ["out"]


def test_an_outlet_is_written_once_and_where_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with Outlet("out") as outlet:
        os.chdir("other")
        outlet.write("one")
        with pytest.raises(OSError, match="out"):
            outlet.write("two")
    assert (tmp_path / "out").read_text() == "one"
    assert os.listdir(tmp_path / "other") == []


def test_the_data_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    path, order = tmp_path / "out", []
    path.write_bytes(OLD)
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        order.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.read_bytes()))
        fsync(descriptor)

    def replaced(*names):
        order.append("replaced")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_file(path, b"new")
    assert order == [(False, OLD), "replaced", (True, b"new")]


# Interruptions, and others at the same time


def test_an_exception_at_any_line(tmp_path):
    """Ctrl-C can come between any two lines: then the file is the old or the new one, and nothing else is there."""
    path = tmp_path / "out"
    source = fastinit.files.__file__
    count = 0

    def tracer(at):
        seen = 0

        def trace(frame, event, _):
            nonlocal seen
            if frame.f_code.co_filename != source:
                return None
            if event == "line":
                seen += 1
                if seen == at:
                    raise KeyboardInterrupt
            return trace

        return trace, lambda: seen

    for at in range(1, 1000):
        path.write_bytes(OLD)
        trace, seen = tracer(at)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            write_file(path, b"new")
        except KeyboardInterrupt:
            count += 1
        finally:
            sys.settrace(before)
        assert path.read_bytes() in (OLD, b"new"), at
        assert os.listdir(tmp_path) == ["out"], at
        if seen() < at:
            break
    assert count > 40
    assert len(os.listdir("/proc/self/fd")) < 200 if os.path.isdir("/proc/self/fd") else True


LONG = """
import signal, sys
from fastinit.files import Outlet
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
with Outlet(sys.argv[1]) as outlet:
    print("open", flush=True)
    signal.pause()
"""


def test_ctrl_c_leaves_nothing(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(OLD)
    with subprocess.Popen(
        [sys.executable, "-c", LONG, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"open\n"
        assert len(os.listdir(tmp_path)) == 2
        run.send_signal(signal.SIGINT)
        try:
            run.communicate(timeout=30)
        finally:
            run.kill()  # or leaving the block would wait for it
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["out"]


MANY = """
import sys
from fastinit.files import write_file
for number in range(60):
    write_file(sys.argv[1], sys.argv[2] * 100_000)
"""


def test_two_processes_at_a_time(tmp_path):
    path = tmp_path / "out"
    write_file(path, "c" * 100_000)
    runs = [subprocess.Popen([sys.executable, "-c", MANY, str(path), letter]) for letter in "ab"]
    seen = set()
    while any(run.poll() is None for run in runs):
        text = path.read_text()
        assert len(text) == 100_000 and len(set(text)) == 1
        seen.add(text[0])
        time.sleep(0.001)
    assert [run.wait(30) for run in runs] == [0, 0]
    assert seen & {"a", "b"}
    assert os.listdir(tmp_path) == ["out"]


def test_the_command_writes_through_a_pipe(tmp_path, run_python):
    pipe = tmp_path / "numbers.json"
    os.mkfifo(pipe)
    thread, found = reads(pipe)
    network = ["--depth", "3", "--width", "8", "--activation", "relu", "--init", "he_normal"]
    arguments = ["check", *network, "--no-page", "--json"]
    done = run_python("import sys; from fastinit.cli import main; sys.exit(main())", *arguments, str(pipe))
    thread.join(30)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(found)["verdict"] == "healthy"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
