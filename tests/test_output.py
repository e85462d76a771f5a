"""The programs' output: every byte, in order, no line cut or mixed, whatever the disk, the operator or a kill does meanwhile."""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.mechanism import logfiles, logreading, output
from supervisor.mechanism.logfiles import LogFile
from supervisor.mechanism.logreading import Wanted, follow, tail
from supervisor.mechanism.output import Outputs
from supervisor.model import InstanceId, OutputSettings
from tests.disk import fill, free, small_disk

DEADLINE_S = 15.0
ID = InstanceId("store", 1)
PLAIN = OutputSettings(compress=False)
SMALL = OutputSettings(rotate_bytes=1000, keep=500, compress=False)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.005)


class Room:
    """Outputs on one folder; what was attached is closed at the end."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.path = log_dir / "store.log"
        self.remarks: list[str] = []
        self.outputs = Outputs(str(log_dir), lambda program, text: self.remarks.append(f"{program}: {text}"))
        self.writers: list[int] = []

    def attach(self, id: InstanceId = ID, settings: OutputSettings = PLAIN) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.outputs.attach(id, reader, settings)
        self.writers.append(writer)
        return writer

    def end(self, writer: int) -> None:
        self.writers.remove(writer)
        os.close(writer)

    def close(self) -> None:
        for writer in tuple(self.writers):
            self.end(writer)
        assert self.outputs.close(DEADLINE_S)

    def rotated(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.log_dir.glob("store.log.*"), key=lambda path: -int(path.name.split(".")[2]))

    def all(self) -> bytes:
        packed = b"".join(gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in self.rotated())
        return packed + (self.path.read_bytes() if self.path.exists() else b"")


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    made = Room(tmp_path / "logs")
    yield made
    made.close()
    until(lambda: set(os.listdir("/proc/self/fd")) <= before)  # a compression may still be at work
    until(lambda: set(threading.enumerate()) <= threads)


def test_bytes_arrive_exactly_and_a_line_need_not_be_finished(room: Room) -> None:
    writer = room.attach()
    os.write(writer, b"\x00\xff one\r\n\n prompt> ")
    until(lambda: room.path.exists() and room.path.read_bytes() == b"\x00\xff one\r\n\n prompt> ")
    os.write(writer, b"answer\n")
    room.close()
    assert room.all() == b"\x00\xff one\r\n\n prompt> answer\n"


def test_rotation_cuts_no_line_and_keeps_every_byte(room: Room) -> None:
    writer = room.attach(settings=SMALL)
    sent = b"".join(b"%05d %s\n" % (number, b"x" * (number % 300)) for number in range(1000))
    os.write(writer, sent)
    room.close()
    files = [*room.rotated(), room.path]
    assert room.all() == sent
    assert len(files) > 100
    for path in files[:-1]:
        data = path.read_bytes()
        assert data.endswith(b"\n")
        assert 1000 <= len(data) < 1000 + 310


def test_rotation_removes_what_is_beyond_keep(room: Room) -> None:
    writer = room.attach(settings=OutputSettings(rotate_bytes=1000, keep=3, compress=False))
    lines = [b"%099d\n" % number for number in range(100)]
    os.write(writer, b"".join(lines))
    room.close()
    assert [path.name for path in room.rotated()] == ["store.log.3", "store.log.2", "store.log.1"]
    assert room.all() == b"".join(lines[60:])


def test_a_line_that_never_ends_is_cut_so_that_no_file_grows_for_ever(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LINE_BYTES", 10_000)
    writer = room.attach(settings=SMALL)
    os.write(writer, b"x" * 60_000)
    room.close()
    assert room.all() == b"x" * 60_000


@pytest.mark.parametrize("left", ["nothing", "half", "both"])
def test_what_was_rotated_is_compressed_also_after_a_death_in_between(room: Room, left: str) -> None:
    room.log_dir.mkdir()
    old = b"written in an earlier life\n" * 50
    (room.log_dir / "store.log.1").write_bytes(old)
    if left == "half":
        (room.log_dir / "store.log.77.gz.new").write_bytes(b"half")
    if left == "both":
        (room.log_dir / "store.log.1.gz").write_bytes(gzip.compress(old))
    writer = room.attach(settings=OutputSettings(rotate_bytes=1000))
    new = b"".join(b"%099d\n" % number for number in range(35))
    os.write(writer, new)
    until(lambda: {path.name for path in room.log_dir.iterdir()} == {"store.log", *(f"store.log.{n}.gz" for n in range(1, 5))})
    assert room.all() == old + new
    assert b"".join(tail(str(room.log_dir), "store", Wanted(1000))) == old + new


@pytest.mark.parametrize("settings", [PLAIN, OutputSettings(rotate_bytes=8, compress=False)])
def test_what_a_death_left_in_a_pipe_is_not_doubled_by_a_sibling_nor_by_a_rotation(room: Room, settings: OutputSettings) -> None:
    """The last four bytes of the file are in the pipe of the second instance as well; the first one has its turn before it."""
    room.log_dir.mkdir()
    room.path.write_bytes(b"one\ntwo\n")
    os.setxattr(room.path, logfiles.NOTE, b"%.3f 2 4" % time.time())
    for number, waits in ((1, b"other\n"), (2, b"two\nthree\n")):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.write(writer, waits)
        room.outputs.attach(InstanceId("store", number), reader, settings)
        room.writers.append(writer)
    room.close()
    assert sorted(room.all().splitlines()) == [b"one", b"other", b"three", b"two"]


def test_a_gap_that_a_death_left_in_the_numbers_is_filled(room: Room) -> None:
    room.log_dir.mkdir()
    for number in (1, 3):
        (room.log_dir / f"store.log.{number}").write_bytes(b"%d\n" % number)
    writer = room.attach(settings=SMALL)
    os.write(writer, b"x" * 999 + b"\n" + b"next\n")
    room.close()
    assert [(path.name, path.read_bytes()[:1]) for path in room.rotated()] == [
        ("store.log.3", b"3"),
        ("store.log.2", b"1"),
        ("store.log.1", b"x"),
    ]


def flood(writer: int, tag: bytes, count: int, piece: int) -> threading.Thread:
    """Write numbered lines in pieces that do not care for lines."""
    data = b"".join(b"%s %06d %s\n" % (tag, number, tag * 30) for number in range(count))

    def write() -> None:
        for start in range(0, len(data), piece):
            os.write(writer, data[start : start + piece])

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("settings", [PLAIN, OutputSettings(rotate_bytes=100_000, keep=500, compress=False)])
def test_lines_of_instances_do_not_mix(room: Room, settings: OutputSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "HOLD_S", DEADLINE_S)  # on a busy machine a writer may stand in mid-line for long
    threads = [
        flood(room.attach(InstanceId("store", 1), settings), b"A", 8000, 777),
        flood(room.attach(InstanceId("store", 2), settings), b"B", 8000, 200_000),
        flood(room.attach(InstanceId("store", 3), settings), b"C", 800, 7),
    ]
    for thread in threads:
        thread.join()
    room.close()
    lines = room.all().splitlines()
    for tag, count in ((b"A", 8000), (b"B", 8000), (b"C", 800)):
        mine = [line for line in lines if line.startswith(tag)]
        assert mine == [b"%s %06d %s" % (tag, number, tag * 30) for number in range(count)]
    assert len(lines) == 16_800


def test_an_open_line_is_ended_before_another_instance_goes_on(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "HOLD_S", 0.05)
    first, second = room.attach(InstanceId("store", 1)), room.attach(InstanceId("store", 2))
    os.write(first, b"hangs in mid-")
    until(lambda: room.path.exists() and room.path.stat().st_size > 0)
    os.write(second, b"relief\n")
    until(lambda: b"relief\n" in room.path.read_bytes())
    assert room.path.read_bytes() == b"hangs in mid-\nrelief\n"


def test_an_open_line_that_goes_on_soon_is_waited_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "HOLD_S", DEADLINE_S)
    first, second = room.attach(InstanceId("store", 1)), room.attach(InstanceId("store", 2))
    os.write(first, b"one ")
    until(lambda: room.path.exists() and room.path.stat().st_size > 0)
    os.write(second, b"two\n")
    assert room.outputs.last(InstanceId("store", 2)) == b""
    os.write(first, b"line\nand more")
    until(lambda: room.path.read_bytes() == b"one line\ntwo\nand more")


def test_an_open_line_that_fills_the_file_is_ended_and_rotated_when_another_goes_on(room: Room) -> None:
    for size in (998, 999, 1000, 1001):
        number = 2 * size
        first, second = (room.attach(InstanceId("store", number + more), SMALL) for more in (0, 1))
        os.write(first, b"x" * size)
        assert room.outputs.last(InstanceId("store", number)) == b"x" * size
        room.end(first)
        os.write(second, b"next\n" * 200)
        assert room.outputs.last(InstanceId("store", number + 1)) == b"next\n" * 200
        room.end(second)
    room.close()
    assert room.all() == b"".join(b"x" * size + b"\n" + b"next\n" * 200 for size in (998, 999, 1000, 1001))


def test_the_next_instance_begins_a_line_of_its_own(room: Room) -> None:
    writer = room.attach(InstanceId("store", 1))
    os.write(writer, b"died here")
    room.end(writer)
    until(lambda: room.outputs.last(InstanceId("store", 1)) == b"died here")
    os.write(room.attach(InstanceId("store", 2)), b"started\n")
    room.close()
    assert room.all() == b"died here\nstarted\n"


def test_last_is_what_the_instance_wrote_itself_across_rotation_and_its_end(room: Room) -> None:
    first, second = room.attach(InstanceId("store", 1), SMALL), room.attach(InstanceId("store", 2), SMALL)
    for number in range(200):
        os.write(first, b"first %03d\n" % number)
        os.write(second, b"second %03d\n" % number)
    wanted = b"".join(b"first %03d\n" % number for number in range(200))
    assert room.outputs.last(InstanceId("store", 1)) == wanted[-4096:]
    room.end(first)
    os.write(second, b"more\n" * 1000)
    assert room.outputs.last(InstanceId("store", 1)) == wanted[-4096:]
    assert room.outputs.last(InstanceId("store", 2)) == (b"more\n" * 1000)[-4096:]
    assert room.outputs.last(InstanceId("store", 3)) == b""


def test_timestamps_stand_before_each_line_and_nowhere_else(room: Room) -> None:
    writer = room.attach(settings=OutputSettings(timestamps=True, compress=False))
    os.write(writer, b"one\ntw")
    until(lambda: room.path.exists() and room.path.read_bytes().endswith(b"tw"))
    os.write(writer, b"o\n\nthree\n")
    room.close()
    lines = room.all().split(b"\n")
    assert [line[24:] for line in lines] == [b" one", b" two", b" ", b" three", b""]
    assert all(line[10:11] == b"T" and line[23:24] == b"Z" for line in lines[:-1])


def test_a_pipe_that_its_program_set_to_packets_spills_into_no_other_log(room: Room) -> None:
    """Of such a pipe one read gives one packet (O_DIRECT, pipe(2)): what a look left behind was taken for the next program's."""
    settings = OutputSettings(timestamps=True, compress=False)
    packets, writer = room.attach(settings=settings), room.attach(InstanceId("other", 1), settings)
    fcntl.fcntl(packets, fcntl.F_SETFL, os.O_DIRECT)
    room.outputs.last(ID)  # both are attached
    for number in range(500):
        os.write(packets, b"packet %04d\n" % number)
    until(lambda: b"packet 0499\n" in room.all())
    os.write(writer, b"other\n" * 20)
    other = room.log_dir / "other.log"
    until(lambda: other.exists() and other.read_bytes().count(b"other\n") == 20)
    assert b"packet" not in other.read_bytes()
    assert re.findall(rb"packet (\d{4})\n", room.all()) == [b"%04d" % number for number in range(500)]


@pytest.mark.parametrize("what", ["symlink", "second name", "fifo", "socket"])
def test_what_is_no_file_of_its_own_is_never_written_and_the_loss_is_said(
    room: Room, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may belong to the program's user, and we may be root: a link would have us write to any file."""
    monkeypatch.setattr(output, "RETRY_S", 0.02)
    victim = room.log_dir.parent / "victim"
    victim.write_bytes(b"theirs\n")
    room.log_dir.mkdir()
    match what:
        case "symlink":
            room.path.symlink_to(victim)
        case "second name":
            room.path.hardlink_to(victim)
        case "fifo":
            os.mkfifo(room.path)
        case _:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(room.path))
    writer, other = room.attach(), room.attach(InstanceId("other", 1))
    os.write(writer, b"lost\n")
    os.write(other, b"kept\n")
    until(lambda: (room.log_dir / "other.log").exists() and (room.log_dir / "other.log").read_bytes() == b"kept\n")
    until(lambda: room.outputs.last(ID) == b"lost\n")
    room.path.unlink()

    def written_again() -> bool:
        os.write(writer, b"again\n")
        return len(room.remarks) > 1

    until(written_again)
    assert set(room.path.read_bytes().splitlines()) == {b"again"}
    assert "is a link or no plain file, and could lead elsewhere: remove it; the program goes on" in room.remarks[0]
    assert re.search(r"is written again; \d+ bytes of output was lost", room.remarks[1])
    assert victim.read_bytes() == b"theirs\n"


def test_a_link_among_the_rotated_files_is_not_compressed(room: Room) -> None:
    """What only root may read would stand in the program's folder."""
    victim = room.log_dir.parent / "victim"
    victim.write_bytes(b"theirs\n")
    room.log_dir.mkdir()
    link = room.log_dir / "store.log.1"
    link.symlink_to(victim)
    compressing = threading.Thread(target=logfiles.compress, args=(room.path,))  # it lowers the priority of its thread for good
    compressing.start()
    compressing.join()
    assert link.is_symlink()
    assert [path.name for path in room.log_dir.iterdir()] == ["store.log.1"]


def test_changed_settings_hold_from_the_next_byte(room: Room) -> None:
    writer = room.attach()
    os.write(writer, b"x" * 1999 + b"\n")
    until(lambda: room.path.exists() and room.path.stat().st_size == 2000)
    room.outputs.update("store", SMALL)
    os.write(writer, b"next\n")
    until(lambda: room.path.read_bytes() == b"next\n")
    assert (room.log_dir / "store.log.1").stat().st_size == 2000


@pytest.mark.parametrize("what", ["removed", "replaced", "emptied", "folder removed"])
def test_a_file_that_somebody_took_away_is_begun_again(room: Room, what: str) -> None:
    writer = room.attach()
    os.write(writer, b"before\n")
    until(lambda: room.path.exists() and room.path.read_bytes() == b"before\n")
    match what:
        case "removed":
            room.path.unlink()
        case "replaced":
            room.path.rename(room.log_dir / "elsewhere")
            room.path.write_bytes(b"theirs\n")
        case "emptied":
            os.truncate(room.path, 0)
        case _:
            room.path.unlink()
            room.log_dir.rmdir()
    os.write(writer, b"after\n")
    wanted = b"theirs\nafter\n" if what == "replaced" else b"after\n"
    until(lambda: room.path.exists() and room.path.read_bytes() == wanted)


def test_a_full_disk_costs_output_and_never_holds_the_program_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "RETRY_S", 0.05)
    with small_disk("300k") as disk:
        room = Room(disk / "logs")
        writer = room.attach()
        os.write(writer, b"before\n")
        until(lambda: room.path.exists() and room.path.read_bytes() == b"before\n")
        fill(disk)
        threads = [flood(writer, b"x", 60_000, 50_000)]
        threads[0].join(DEADLINE_S)
        assert not threads[0].is_alive()
        until(lambda: room.outputs.last(ID).endswith(b"x 059999 " + b"x" * 30 + b"\n"))
        assert "No space left on device" in room.remarks[0]
        free(disk)

        def written_again() -> bool:
            os.write(writer, b"again\n")
            return len(room.remarks) > 1

        until(written_again)
        room.close()
        lost = re.search(r"is written again; ([0-9.]+) MB of output was lost", room.remarks[1])
        assert lost is not None
        lines = room.all().splitlines()
        assert lines[0] == b"before"
        assert lines[-1] == b"again"
        sent = 60_000 * len(b"x 000000 " + b"x" * 30 + b"\n")
        kept = sum(len(line) + 1 for line in lines if line.startswith(b"x "))
        assert float(lost[1]) * 1e6 == pytest.approx(sent - kept, abs=100_000)


def test_a_folder_that_cannot_be_made_is_said_once_and_tried_again(room: Room) -> None:
    room.log_dir.touch()
    writer = room.attach()
    os.write(writer, b"one\n")
    until(lambda: bool(room.remarks))
    room.log_dir.unlink()
    until(lambda: room.path.exists() and room.path.read_bytes() == b"one\n")
    until(lambda: len(room.remarks) == 2)
    assert room.remarks[1].endswith("is written again; 0 bytes of output was lost")


KILLED = """
import os, random, signal, sys, time
from supervisor.mechanism import output
from supervisor.mechanism.output import Outputs
from supervisor.model import InstanceId, OutputSettings
output.FLOOD_BYTES, output.FLOOD_S = 4096, 60  # its way is the more delicate one
log_dir, timestamps, rounds = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3])
settings = OutputSettings(rotate_bytes=200_000, keep=10_000, compress=True, timestamps=timestamps)
chance = random.Random(rounds)
for _ in range(rounds):
    pump = os.fork()
    if not pump:
        outputs = Outputs(log_dir, print)
        for pid in sys.argv[4:]:
            outputs.attach(InstanceId("store", int(pid)), os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_CLOEXEC), settings)
        time.sleep(60)
    time.sleep(chance.uniform(0.001, 0.03))
    os.kill(pump, signal.SIGKILL)
    os.waitpid(pump, 0)
"""
WRITING = """
import os, sys
number = 0
while b"stop" not in (sys.stdin.buffer.raw.read(4) or b""):
    data = b"".join(b"%s %07d %s\\n" % (sys.argv[1].encode(), n, b"x" * (n % 150)) for n in range(number, number + 40))
    number += 40
    os.write(1, data[:777]), os.write(1, data[777:])
os.write(2, b"%d" % number)
"""


@pytest.mark.parametrize("timestamps", [False, True])
def test_fifty_sigkills_of_the_pump_lose_double_and_cut_nothing(room: Room, timestamps: bool) -> None:
    """Two programs write in pieces that end in mid-line; each next pump opens their pipes anew, out of /proc."""
    writers = []
    for tag in ("A", "B"):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        both = os.open(f"/proc/self/fd/{writer}", os.O_RDWR | os.O_CLOEXEC)
        command = [sys.executable, "-c", WRITING, tag]
        writers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=both, stderr=subprocess.PIPE))
        for fd in (reader, writer, both):
            os.close(fd)
    pids = [str(each.pid) for each in writers]
    feeding = threading.Event()

    def feed() -> None:
        while not feeding.wait(0.001):
            for each in writers:
                os.write(each.stdin.fileno(), b"more")

    thread = threading.Thread(target=feed)
    thread.start()
    subprocess.run([sys.executable, "-c", KILLED, str(room.log_dir), str(timestamps), "50", *pids], check=True, timeout=120)
    settings = OutputSettings(rotate_bytes=200_000, keep=10_000, timestamps=timestamps)
    for pid in pids:
        room.outputs.attach(InstanceId("store", int(pid)), os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_CLOEXEC), settings)
    feeding.set()
    thread.join()
    counts = [int(each.communicate(b"stop", timeout=DEADLINE_S)[1]) for each in writers]
    room.close()
    lines = list(tail(str(room.log_dir), "store", Wanted(sum(counts) + 100)))
    for tag, count in zip((b"A", b"B"), counts, strict=True):
        wanted = [b"%s %07d %s\n" % (tag, number, b"x" * (number % 150)) for number in range(count)]
        assert [line for line in (line[25:] if timestamps else line for line in lines) if line.startswith(tag)] == wanted
    assert len(lines) == sum(counts)


def write_files(folder: Path, contents: list[bytes], packed: int = 0) -> None:
    """Oldest first; the `packed` oldest ones gzipped; the last one is the file written now."""
    for index, data in enumerate(contents[:-1]):
        name = folder / f"store.log.{len(contents) - 1 - index}"
        if index < packed:
            name.with_name(f"{name.name}.gz").write_bytes(gzip.compress(data))
        else:
            name.write_bytes(data)
    (folder / "store.log").write_bytes(contents[-1])


@pytest.mark.parametrize("packed", [0, 2])
@pytest.mark.parametrize("last", [b"", b"8\n9\n", b"8\n9\nopen"])
def test_tail_gives_the_last_lines_from_as_many_files_as_it_takes(tmp_path: Path, last: bytes, packed: int) -> None:
    write_files(tmp_path, [b"1\n2\n3\n", b"4\n5\n", b"6\n7\n", last], packed)
    lines = (b"1\n2\n3\n4\n5\n6\n7\n" + last).splitlines(keepends=True)
    for count in range(len(lines) + 2):
        assert list(tail(str(tmp_path), "store", Wanted(count))) == (lines[-count:] if count else [])


def test_tail_finds_lines_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logreading, "BLOCK_BYTES", 7)
    lines = [b"%s\n" % (b"x" * (number % 20)) for number in range(60)]
    write_files(tmp_path, [b"".join(lines)])
    for count in range(1, 61):
        assert list(tail(str(tmp_path), "store", Wanted(count))) == lines[-count:]


def test_tail_of_nothing_is_nothing_and_of_a_broken_gzip_what_can_be_read(tmp_path: Path) -> None:
    assert list(tail(str(tmp_path / "absent"), "store", Wanted(10))) == []
    (tmp_path / "store.log.1.gz").write_bytes(gzip.compress(os.urandom(1000))[:50])
    (tmp_path / "store.log").write_bytes(b"now\n")
    assert list(tail(str(tmp_path), "store", Wanted(10)))[-1] == b"now\n"


def take(followed: Iterator[bytes], last: bytes) -> bytes:
    """What is followed, up to the line `last`; a line that was just being written may have come in pieces."""
    data = b""
    while not data.endswith(last):
        data += next(followed)
    return data


def test_follow_goes_on_across_rotations_and_over_an_emptied_file(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logreading, "POLL_S", 0.002)
    writer = room.attach(settings=SMALL)
    os.write(writer, b"old 1\nold 2\n")
    until(lambda: room.path.exists() and room.path.stat().st_size == 12)
    followed = follow(str(room.log_dir), "store", Wanted(1))
    assert next(followed) == b"old 2\n"
    sent = [b"%04d %s\n" % (number, b"x" * 90) for number in range(300)]
    os.write(writer, b"".join(sent))
    assert take(followed, sent[-1]) == b"".join(sent)
    os.write(writer, b"prompt> ")
    assert next(followed) == b"prompt> "
    os.truncate(room.path, 0)
    os.write(writer, b"anew\n")
    assert next(followed) == b"anew\n"
    followed.close()


def test_follow_waits_for_a_file_that_is_not_there_yet(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logreading, "POLL_S", 0.002)
    followed = follow(str(room.log_dir), "store", Wanted(10))
    os.write(room.attach(), b"first\n")
    assert next(followed) == b"first\n"
    followed.close()


def test_follow_finds_its_way_when_its_file_was_compressed_meanwhile(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logreading, "POLL_S", 0.002)
    writer = room.attach(settings=OutputSettings(rotate_bytes=1000, keep=100))
    os.write(writer, b"first\n")
    until(lambda: room.path.exists() and room.path.stat().st_size == 6)
    followed = follow(str(room.log_dir), "store", Wanted(1))
    assert next(followed) == b"first\n"
    sent = [b"%04d %s\n" % (number, b"x" * 400) for number in range(9)]
    for line in sent:  # one after the other, so that each file has a time of its own
        os.write(writer, line)
        assert room.outputs.last(ID).endswith(line)
        threading.Event().wait(0.01)
    until(lambda: (room.log_dir / "store.log.1.gz").exists() and not (room.log_dir / "store.log.1").exists())
    assert take(followed, sent[-1]) == b"".join(sent)
    followed.close()


def test_hundreds_of_programs_share_the_one_thread(room: Room) -> None:
    ids = [InstanceId(f"p{number}", 1) for number in range(200)]
    writers = [room.attach(id) for id in ids]
    for id, writer in zip(ids, writers, strict=True):
        os.write(writer, f"{id}\n".encode())
    room.close()
    assert [(room.log_dir / f"{id.program}.log").read_text() for id in ids] == [f"{id}\n" for id in ids]


def test_a_file_of_an_age_is_rotated_with_the_next_line_also_after_a_restart(tmp_path: Path) -> None:
    aged = OutputSettings(age_s=60, compress=False)
    first = Room(tmp_path)
    writer = first.attach(settings=aged)
    os.write(writer, b"one\nopen ")
    assert first.outputs.last(ID) == b"one\nopen "
    began, *more = os.getxattr(first.path, logfiles.NOTE).split()
    first.close()
    os.setxattr(first.path, logfiles.NOTE, b" ".join([b"%.3f" % (float(began) - 61), *more]))
    second = Room(tmp_path)
    os.write(second.attach(settings=aged), b"line\nnext\n")
    second.close()
    assert (tmp_path / "store.log.1").read_bytes() == b"one\nopen line\n"
    assert second.path.read_bytes() == b"next\n"


def test_time_stamps_lose_nothing_at_the_end_where_a_rotation_falls(room: Room) -> None:
    writer = room.attach(settings=OutputSettings(rotate_bytes=1000, keep=500, compress=False, timestamps=True))
    os.write(writer, b"".join(b"%d\n" % number for number in range(2000)))
    room.close()
    assert [line[25:] for line in room.all().splitlines()] == [b"%d" % number for number in range(2000)]
    assert len(room.rotated()) > 40


def test_last_knows_after_a_restart_what_the_instance_wrote_before_it(tmp_path: Path) -> None:
    first = Room(tmp_path)
    os.write(first.attach(), b"Traceback ...\n")
    first.close()
    second = Room(tmp_path)
    second.attach()
    second.attach(InstanceId("store", 2))
    assert second.outputs.last(ID) == b"Traceback ...\n"
    assert second.outputs.last(InstanceId("store", 2)) == b""
    second.close()


def test_the_room_set_aside_in_a_flood_is_given_back(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = LogFile(str(room.log_dir), "trial", PLAIN)
    trial.ready()
    trial.reserve(1)
    granted = trial.path.stat().st_blocks
    trial.close()
    assert trial.path.stat().st_blocks == 0
    if not granted:
        pytest.skip("this filesystem sets no room aside")
    for name, value in (("FLOOD_BYTES", 1), ("FLOOD_S", DEADLINE_S), ("CALM_S", DEADLINE_S)):
        monkeypatch.setattr(output, name, value)
    writer = room.attach()
    for line in (b"one\n", b"two\n"):
        os.write(writer, line)
        assert room.outputs.last(ID).endswith(line)
    assert room.path.stat().st_blocks >= granted
    monkeypatch.setattr(output, "CALM_S", 0.0)
    os.write(writer, b"three\n")
    until(lambda: 0 < room.path.stat().st_blocks < granted)
    assert room.all() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("over", ["CALM_S", "PACK_S"])
def test_what_a_flood_rotates_is_compressed_when_it_is_over_or_goes_on_for_too_long(
    room: Room, over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FLOOD_BYTES", 1), ("CALM_S", DEADLINE_S), ("PACK_S", DEADLINE_S)):
        monkeypatch.setattr(output, name, value)
    writer = room.attach(settings=OutputSettings(rotate_bytes=1000))
    lines = [b"%0999d\n" % number for number in range(5)]
    for line in lines[:4]:
        os.write(writer, line)
        assert room.outputs.last(ID).endswith(line)
    assert [path.suffix for path in room.rotated()] == [".3", ".2", ".1"]
    monkeypatch.setattr(output, over, 0.0)
    os.write(writer, lines[4])
    until(lambda: [path.suffix for path in room.rotated()] == [".gz"] * 4)
    assert room.all() == b"".join(lines)


DIES_COPYING = """
import os, sys, time
from supervisor.mechanism import output
from supervisor.model import InstanceId, OutputSettings
output.FLOOD_BYTES, output.FLOOD_S = 1, 60
output._Glass.drop = lambda *_: os._exit(7)
outputs = output.Outputs(sys.argv[1], print)
outputs.attach(InstanceId("store", 1), int(sys.argv[2]), OutputSettings(compress=False))
time.sleep(60)
"""


def test_what_was_written_and_not_taken_when_we_died_comes_once(room: Room) -> None:
    writer = room.attach()
    os.write(writer, b"before\n")
    assert room.outputs.last(ID) == b"before\n"
    reader, other = os.pipe2(os.O_CLOEXEC)
    os.write(other, b"first\n")
    command = [sys.executable, "-c", DIES_COPYING, str(room.log_dir), str(reader)]
    with subprocess.Popen(command, pass_fds=[reader]) as pump:
        until(lambda: room.path.read_bytes().endswith(b"first\n"))
        os.write(other, b"second\nopen ")
        assert pump.wait(DEADLINE_S) == 7
    assert room.path.read_bytes() == b"before\nfirst\nsecond\nopen "
    after = Room(room.log_dir)
    after.outputs.attach(ID, reader, PLAIN)
    os.write(other, b"line\n")
    os.close(other)
    after.close()
    assert after.all() == b"before\nfirst\nsecond\nopen line\n"
