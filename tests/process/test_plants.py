"""What somebody may plant where rlay opens a file is refused and left alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import rlay
from rlay import server
from rlay.channel import files
from rlay.protocol.schema import describe_env
from tests.c_programs import Compile
from tests.faults import plants
from tests.faults.plants import (
    CHANNEL,
    FILES,
    GENERATION,
    IS_ROOT,
    PEER,
    PLANTS,
    SIDES,
    UNSAFE_PATH,
    Plant,
)
from tests.peers import Task

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform != "linux", reason="users, links and devices of Linux"),
    pytest.mark.timeout(120),
]


def can_make(plant: Plant) -> bool:
    return IS_ROOT or not plant.for_root


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", ["python", "c"])
def test_a_plant_is_refused_and_left_alone(
    language: str,
    name: str,
    plant: Plant,
    attempts: dict[str, plants.Attempt],
    channel_root: Path,
) -> None:
    if not can_make(plant):
        pytest.skip("only root can make this")
    for side in SIDES:
        assert plants.refusal(plant, channel_root / name, attempts[language], side) == []
    # And nothing is held: the channel works once the plant is gone.
    assert attempts[language]("server") == (0, "")


def test_the_check_finds_a_version_that_follows_links(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch, compile_gnu: Compile
) -> None:
    link = PLANTS[0]
    monkeypatch.setattr(files, "_NOFOLLOW", os.O_CLOEXEC)
    path = channel_root / FILES[1]
    assert plants.refusal(link, path, plants.begin, "server")
    following = compile_gnu(*PEER, change=("O_RDWR | O_NOFOLLOW", "O_RDWR"))
    assert plants.refusal(link, path, plants.begin_in_c(following), "server")


def test_the_check_finds_a_version_that_truncates(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_NONBLOCK", os.O_TRUNC)
    found = plants.refusal(PLANTS[2], channel_root / FILES[1], plants.begin, "server")
    assert "the precious file was written" in found


def test_the_check_finds_a_version_that_looks_at_nothing(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "check_regular", lambda *_: None)
    for plant in PLANTS:
        if can_make(plant):
            found = plants.refusal(plant, channel_root / FILES[1], plants.begin, "client")
            assert found, plant.name


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_private_name_that_is_taken_is_not_opened(
    plant: Plant, channel_root: Path, monkeypatch: pytest.MonkeyPatch, planned_peer: Path
) -> None:
    """With a generation that is known before, at the names of a control file and a data file."""
    if not can_make(plant):
        pytest.skip("only root can make this")
    precious = channel_root / "precious"
    precious.write_bytes(plants.PRECIOUS)
    # Links and the like are what a killed server might have left: they are removed, unfollowed.
    monkeypatch.setattr(server.secrets, "randbits", lambda _: GENERATION)
    in_c = plants.begin_in_c(planned_peer, PLANNED_GENERATION=f"{GENERATION:x}")
    paths = files.Paths(CHANNEL)
    for path in (paths.private(GENERATION), paths.data(GENERATION)):
        for attempt in (plants.begin, in_c):
            plant.make(path, precious)
            code, text = attempt("server")
            assert (code == 0) != (path.suffix == ".tmp" and path.is_dir()), text
            plants.remove(path)
        # And found there at the very moment: O_EXCL.
        plant.make(path, precious)
        before = plants.snapshot(channel_root)
        with pytest.raises(rlay.ChannelError, match="cannot be created: File exists; "):
            files.create(path, 4096)
        assert plants.snapshot(channel_root) == before
        plants.remove(path)
    assert precious.read_bytes() == plants.PRECIOUS
    precious.unlink()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
@pytest.mark.parametrize("language", ["python", "c"])
def test_a_client_refuses_what_stands_for_the_data_file(
    language: str,
    plant: Plant,
    channel_root: Path,
    attempts: dict[str, plants.Attempt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not can_make(plant):
        pytest.skip("only root can make this")
    precious = channel_root / "precious"
    precious.write_bytes(plants.PRECIOUS)
    planted: list[Path] = []
    original = rlay.MemServer._create_data

    def create(self: Any, channel: Any, layout: Any) -> Any:
        data = original(self, channel, layout)
        planted.append(self.paths.data(channel.generation))
        planted[0].unlink()
        plant.make(planted[0], precious)
        return data

    monkeypatch.setattr(rlay.MemServer, "_create_data", create)
    space = gymnasium.spaces.Discrete(2)
    schema = describe_env(space, space, request_body=4096, reply_body=4096, frame=0)
    serving = rlay.MemServer(CHANNEL, rlay.Role.ENV, features=rlay.Feature.NONE, schema=schema)
    try:
        accepting = Task(serving.accept, 30.0)
        if language == "python":
            client = rlay.MemClient(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
            with contextlib.closing(client), pytest.raises(rlay.UnsafePathError) as caught:
                client.attach(30.0)
            code, text = caught.value.code, str(caught.value)
        else:
            monkeypatch.setattr(plants, "CHANNEL", CHANNEL)
            code, text = attempts["c"]("client")
        accepting.result()
        assert code == UNSAFE_PATH, text
        assert str(planted[0]) in text
        assert precious.read_bytes() == plants.PRECIOUS
    finally:
        serving.close()
    plants.remove(planted[0])
    precious.unlink()


def test_every_plant_has_a_name_of_its_own() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS)
    assert all(dataclasses.is_dataclass(plant) for plant in PLANTS)
