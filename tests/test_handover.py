"""The handover: what was written is what a later supervisor reads, whatever happened in between."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from supervisor import host
from supervisor.model import Build, Instance, InstanceId, LaunchSettings, Program, ProgramSettings, Severity, State, Tell
from supervisor.records.handover import Handover, Record
from tests.disk import fill, free, small_disk

ROOT = Path(__file__).resolve().parent.parent
BOOT = "boot-1"
AT = 5.0
LAUNCH = LaunchSettings(command=("sleep", "9"))

# JSON holds neither bytes that are no UTF-8 (configuration refuses them) nor infinities ("off" is None)
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(int, st.integers(-(2**62), 2**62))


def program(name: str = "store") -> Program:
    instance = Instance(id=InstanceId(name, 7), build=1, state=State.READY, since=2.5, spawned=1.0, pid=4242, start_ticks=99)
    return Program(
        settings=ProgramSettings(name=name, launch=LAUNCH), build=Build(1, "4f2a91c", LAUNCH, "/"), instances=(instance,)
    )


def programs(handover: Handover) -> tuple[Program, ...]:
    return tuple(record.program for record in handover.read_all())


@pytest.fixture
def remarks() -> list[str]:
    return []


@pytest.fixture
def handover(tmp_path: Path, remarks: list[str]) -> Iterator[Handover]:
    made = Handover(str(tmp_path), BOOT, remarks.append)
    yield made
    made.close()


@hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(value=st.builds(Program))
def test_read_all_gives_any_program_back_as_it_was(handover: Handover, value: Program) -> None:
    value = replace(value, settings=replace(value.settings, name="store"))
    assert handover.write(program(), AT) == ""
    assert handover.write(value, AT) == ""
    assert programs(handover) == (value,)


def test_write_replaces_and_drop_removes(handover: Handover, tmp_path: Path) -> None:
    first, second = program("api"), program("store")
    for value in (first, second, replace(second, restarts=3)):
        assert handover.write(value, AT) == ""
    assert programs(handover) == (first, replace(second, restarts=3))
    handover.drop("api")
    handover.drop("api")
    assert [path.name for path in (tmp_path / "handover").iterdir()] == ["store.json"]


def test_a_first_start_is_handed_over_with_its_pid(handover: Handover) -> None:
    """Before, its process ends with us; of a program that has a file already everything is written."""
    value = program()
    unborn = replace(value, instances=(replace(value.instances[0], pid=None, start_ticks=None),))
    for written, stands in ((unborn, ()), (value, (value,)), (unborn, (unborn,))):
        assert handover.write(written, AT) == ""
        assert programs(handover) == stands


def test_files_are_for_the_owner_alone(handover: Handover, tmp_path: Path) -> None:
    handover.write(program(), AT)
    assert (tmp_path / "handover").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "handover" / "store.json").stat().st_mode & 0o777 == 0o600


def test_read_all_gives_back_when_it_was_written_and_what_people_were_told(handover: Handover) -> None:
    told = (Tell(3, "store", "hang", Severity.WARNING, "store:7 is suspect", ("command:page",)),)
    handover.write(program(), AT, told)
    assert handover.read_all() == (Record(BOOT, AT, program(), told),)


def test_read_all_says_and_skips_what_it_cannot_use(handover: Handover, tmp_path: Path, remarks: list[str]) -> None:
    handover.write(program("store"), AT)
    folder = tmp_path / "handover"
    (folder / "cut.json").write_bytes((folder / "store.json").read_bytes()[:-20])
    (folder / "other.json").write_text('{"boot": "boot-1", "program": {"settings": 3}}')
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "folder.json").mkdir()
    (folder / "half.json.new").write_text("{")
    assert programs(handover) == (program("store"),)
    assert [remark.split(": ")[0].rpartition("/")[2] for remark in remarks] == [
        "binary.json",
        "cut.json",
        "folder.json",
        "other.json",
    ]


def test_read_all_of_another_boot_is_empty(handover: Handover, tmp_path: Path, remarks: list[str]) -> None:
    handover.write(program(), AT)
    later = Handover(str(tmp_path), "boot-2", remarks.append)
    assert later.read_all() == ()
    assert remarks == []
    later.close()


def test_write_on_a_full_disk_says_so_and_keeps_the_old_file(remarks: list[str]) -> None:
    with small_disk() as disk:
        handover = Handover(str(disk), BOOT, remarks.append)
        assert handover.write(program(), AT) == ""
        fill(disk)
        sentence = handover.write(replace(program(), restarts=9), AT)
        assert "store.json" in sentence
        assert "No space left on device" in sentence
        assert programs(handover) == (program(),)
        free(disk)
        assert handover.write(replace(program(), restarts=9), AT) == ""
        assert programs(handover) == (replace(program(), restarts=9),)
        handover.close()


def test_read_of_a_file_that_is_nested_too_deeply_is_reported(handover: Handover, tmp_path: Path, remarks: list[str]) -> None:
    """Garbage must not keep a supervisor from starting."""
    handover.write(program(), AT)
    (tmp_path / "handover" / "deep.json").write_text('{"odd":' + "[" * 100_000)
    assert programs(handover) == (program(),)
    assert "deep.json" in remarks[0]


def test_write_after_the_folder_was_removed_makes_it_again(handover: Handover, tmp_path: Path) -> None:
    handover.write(program(), AT)
    shutil.rmtree(tmp_path / "handover")
    assert handover.write(program(), AT) == ""
    assert programs(handover) == (program(),)


def test_write_of_bytes_that_are_no_text_is_a_sentence(handover: Handover) -> None:
    odd = replace(LAUNCH, env=(("NAME", "\udc80"),))
    value = program()
    assert "not UTF-8" in handover.write(replace(value, settings=replace(value.settings, launch=odd)), AT)


def test_boot_id_is_one_name_for_this_boot_and_another_one_in_each_start_of_a_container() -> None:
    script = "from supervisor import host; print(host.boot_id())"
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]

    def told(*wrap: str) -> str:
        done = subprocess.run([*wrap, sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        if "unshare failed" in done.stderr:
            pytest.skip("this user may not make a pid namespace")
        return done.stdout.strip()

    assert told() == host.boot_id()
    assert len({host.boot_id(), told(*container), told(*container)}) == 3
