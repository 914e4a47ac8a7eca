from __future__ import annotations

import inspect
import pickle
from typing import Any

import gymnasium
import pytest

import rlay
from rlay import errors
from rlay.errors import (
    BodyTooLargeError,
    ChannelBusyError,
    ChannelError,
    ChannelFormatError,
    ChannelNotFoundError,
    ChannelTimeoutError,
    LayoutError,
    LayoutMismatchError,
    LocalProtocolError,
    NoSpaceError,
    PeerClosedError,
    PeerError,
    PeerLostError,
    ProtocolError,
    ProtocolVersionError,
    RemoteError,
    RemoteProtocolError,
    RlayError,
    SchemaError,
    ToolError,
    UnsafePathError,
    UnsupportedSpaceError,
    error_for_code,
    rejection,
)

#: One of each class that is raised, with its attributes and what its message must hold.
EXAMPLES: list[tuple[RlayError, dict[str, Any], list[str]]] = [
    (LayoutError("seed: -1 is no u64"), {}, ["seed"]),
    (
        UnsupportedSpaceError("observation/words", gymnasium.spaces.Discrete(2), "too odd"),
        {"path": "observation/words", "space": gymnasium.spaces.Discrete(2)},
        ["observation/words", "Discrete", "too odd"],
    ),
    (SchemaError("groups/0", "gone"), {"location": "groups/0"}, ["groups/0", "gone"]),
    (SchemaError("", "gone"), {"location": ""}, ["top", "gone"]),
    (
        BodyTooLargeError('info["map"]', 300, 200, "reply_body"),
        {"key": 'info["map"]', "size": 300, "capacity": 200},
        ['info["map"]', "300", "200", "raise reply_body"],
    ),
    (ChannelError("no root"), {}, ["no root"]),
    (ChannelNotFoundError("no server at game"), {}, ["no server at game"]),
    (ChannelBusyError("taken"), {"owner": None}, ["taken"]),
    (ChannelBusyError("taken", "lib, process 7"), {"owner": "lib, process 7"}, ["held by lib"]),
    (
        ChannelFormatError("game.rlay", "magic", "00", "89"),
        {"field": "magic", "found": "00", "expected": "89"},
        ["game.rlay", "magic is 00", "expected 89"],
    ),
    (
        ProtocolVersionError("game.rlay", "protocol", "2", "1"),
        {"field": "protocol", "found": "2", "expected": "1"},
        ["protocol is 2, expected 1"],
    ),
    (LayoutMismatchError("n: 2, 3"), {"first_difference": "n: 2, 3"}, ["disagree: n: 2, 3"]),
    (LayoutMismatchError("n: 2, 3", "so"), {"first_difference": "n: 2, 3"}, ["so"]),
    (
        UnsafePathError("/x", "is a link", "remove it"),
        {"path": "/x"},
        ["/x is a link; remove it"],
    ),
    (NoSpaceError("/x", 9), {"path": "/x", "needed": 9}, ["/x", "9 bytes", "RLAY_DIR"]),
    (LocalProtocolError("call reset() first"), {}, ["reset()"]),
    (RemoteProtocolError("seq is 3"), {}, ["seq is 3"]),
    (PeerClosedError("bye"), {"reason": "closed"}, ["bye"]),
    (PeerClosedError("bye", "failed"), {"reason": "failed"}, ["bye"]),
    (
        RemoteError("KeyError", "'x'", "Traceback\n  line\n"),
        {"type": "KeyError", "message": "'x'", "remote_traceback": "Traceback\n  line\n"},
        ["raised KeyError: 'x'", "Remote traceback:\nTraceback\n  line"],
    ),
    (RemoteError("KeyError", "'x'"), {"remote_traceback": ""}, ["raised KeyError: 'x'"]),
    (
        PeerLostError("gone"),
        {"last_command": None, "idle_for": None, "exit_code": None, "stderr_tail": ""},
        ["gone"],
    ),
    (
        PeerLostError("gone", last_command="STEP", idle_for=1.5, exit_code=-9, stderr_tail="oh\n"),
        {"last_command": "STEP", "idle_for": 1.5, "exit_code": -9, "stderr_tail": "oh\n"},
        ["gone", "signal 9", "stderr:\noh"],
    ),
    (PeerLostError("gone", exit_code=3), {"exit_code": 3}, ["exit code 3"]),
    (
        ChannelTimeoutError("reply to STEP", 2.5, "STEPPING"),
        {"waited_for": "reply to STEP", "timeout": 2.5, "phase": "STEPPING"},
        ["no reply to STEP within 2.5 s (STEPPING)"],
    ),
    (ToolError("no display"), {}, ["no display"]),
]
ABSTRACT = {RlayError, ProtocolError, PeerError}
IDS = [f"{type(error).__name__}-{i}" for i, (error, _, _) in enumerate(EXAMPLES)]


def every_class(cls: type[RlayError] = RlayError) -> set[type[RlayError]]:
    return {cls}.union(*(every_class(sub) for sub in cls.__subclasses__()))


def ours() -> set[type[RlayError]]:
    return {cls for cls in every_class() if cls.__module__ == errors.__name__}


def test_there_is_an_example_of_every_class() -> None:
    assert {type(error) for error, _, _ in EXAMPLES} | ABSTRACT == ours()


@pytest.mark.parametrize(("error", "facts", "texts"), EXAMPLES, ids=IDS)
def test_facts_and_message(error: RlayError, facts: dict[str, Any], texts: list[str]) -> None:
    for name, value in facts.items():
        assert getattr(error, name) == value
    for text in texts:
        assert text in str(error)
    first = str(error).splitlines()[0]
    assert not first.endswith(".")
    assert first == first.strip()


@pytest.mark.parametrize(("error", "facts", "texts"), EXAMPLES, ids=IDS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_with_its_facts(
    error: RlayError, facts: dict[str, Any], texts: list[str], protocol: int
) -> None:
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__
    assert facts.items() <= error.__dict__.items() or not facts
    assert back.code == error.code


def test_a_pickled_error_can_be_pickled_again() -> None:
    error = pickle.loads(pickle.dumps(PeerLostError("gone", exit_code=-9)))
    assert str(pickle.loads(pickle.dumps(error))) == "gone; its process ended with signal 9"


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (LayoutError, ValueError),
        (SchemaError, ValueError),
        (ChannelNotFoundError, FileNotFoundError),
        (ChannelTimeoutError, TimeoutError),
    ],
)
def test_those_who_catch_builtins_catch_ours(cls: type, builtin: type) -> None:
    assert issubclass(cls, builtin)


def test_blame_must_be_clear() -> None:
    with pytest.raises(TypeError, match="LocalProtocolError or RemoteProtocolError"):
        ProtocolError("who?")


def test_every_class_has_a_docstring_of_its_own() -> None:
    docs = [cls.__doc__ for cls in ours()]
    assert all(docs)
    assert len(set(docs)) == len(docs)


def test_the_tree_in_the_docstring_names_every_class() -> None:
    tree = errors.__doc__ or ""
    assert all(cls.__name__ in tree for cls in ours())


def test_all_is_complete() -> None:
    public = {
        name
        for name, value in vars(errors).items()
        if getattr(value, "__module__", "") == errors.__name__ and not name.startswith("_")
    }
    assert public == set(errors.__all__)
    assert ours() <= {getattr(rlay, name, None) for name in rlay.__all__}


def test_a_code_finds_its_class() -> None:
    for cls in ours():
        if cls.code:
            assert error_for_code(cls.code) is cls


@pytest.mark.parametrize("code", [0, 19, -1, 2**32 - 1])
def test_a_code_of_nothing(code: int) -> None:
    assert error_for_code(code) is None


REJECTIONS = {
    LayoutError,
    UnsupportedSpaceError,
    SchemaError,
    ChannelError,
    ChannelFormatError,
    ProtocolVersionError,
    LayoutMismatchError,
    NoSpaceError,
}


@pytest.mark.parametrize("code", [*range(20), 2**32 - 1])
def test_a_rejection(code: int) -> None:
    error = rejection(code, "so and so")
    cls = error_for_code(code)
    assert type(error) is (cls if cls in REJECTIONS else ChannelError)
    assert "the server rejected this client: so and so" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_rejection_has_the_facts_of_its_class() -> None:
    assert rejection(10, "n: 2, 3").first_difference == "n: 2, 3"  # type: ignore[attr-defined]
    for code in (8, 9):
        error = rejection(code, "too old")
        assert isinstance(error, ChannelFormatError)
        assert (error.field, error.found) == ("hello", "too old")


def test_no_class_takes_a_code_of_another() -> None:
    codes = [cls.code for cls in ours() if cls.code]
    assert len(set(codes)) == len(codes)


def test_constructors_document_their_arguments() -> None:
    for cls in ours():
        if "__init__" in vars(cls):
            assert inspect.getdoc(vars(cls)["__init__"])


def test_a_peer_does_not_command_the_terminal() -> None:
    """Control characters are escaped in every message; the attributes are as they came."""
    remote = RemoteError("E\x1b", "a\x1b[2Jb\x9bc\x7f\r", "one\n\ttwo\x00é")
    rejected, traced = str(rejection(7, "\x07")), "one\n\ttwo\\x00é"
    assert str(remote) == (
        f"the environment raised E\\x1b: a\\x1b[2Jb\\x9bc\\x7f\\x0d\n\nRemote traceback:\n{traced}"
    )
    assert remote.message == "a\x1b[2Jb\x9bc\x7f\r"
    assert rejected == "the server rejected this client: \\x07"
    assert str(pickle.loads(pickle.dumps(remote))) == str(remote)
