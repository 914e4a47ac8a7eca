"""Every error rlay raises, as one tree.

::

    RlayError
    ├── LayoutError(ValueError)              a space or schema that cannot become fixed records
    │   ├── UnsupportedSpaceError            .space .path
    │   ├── SchemaError                      .location
    │   └── BodyTooLargeError                .key .size .capacity
    ├── ChannelError                         about the files
    │   ├── ChannelNotFoundError(FileNotFoundError)
    │   ├── ChannelBusyError                 .owner
    │   ├── ChannelFormatError               .field .found .expected
    │   │   └── ProtocolVersionError
    │   ├── LayoutMismatchError              .first_difference
    │   ├── UnsafePathError                  .path
    │   └── NoSpaceError                     .path .needed
    ├── ProtocolError                        abstract
    │   ├── LocalProtocolError               your call was out of order
    │   └── RemoteProtocolError              the peer's bytes were
    ├── PeerError                            abstract
    │   ├── PeerClosedError                  .reason: it said goodbye; lost ones did not
    │   ├── PeerLostError                    .last_command .idle_for .exit_code .stderr_tail
    │   └── RemoteError                      .type .message .remote_traceback .lane: its code raised
    ├── ChannelTimeoutError(TimeoutError)    .waited_for .timeout .phase: alive, but late
    └── ToolError                            a command-line tool cannot go on

Each class carries the wire ``code`` of PROTOCOL.md §13, composes one sentence
(what happened, where, what to do) and pickles with its attributes.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "BodyTooLargeError",
    "ChannelBusyError",
    "ChannelError",
    "ChannelFormatError",
    "ChannelNotFoundError",
    "ChannelTimeoutError",
    "LayoutError",
    "LayoutMismatchError",
    "LocalProtocolError",
    "NoSpaceError",
    "PeerClosedError",
    "PeerError",
    "PeerLostError",
    "ProtocolError",
    "ProtocolVersionError",
    "RemoteError",
    "RemoteProtocolError",
    "RlayError",
    "RlayWarning",
    "SchemaError",
    "ToolError",
    "UnsafePathError",
    "UnsupportedSpaceError",
    "error_for_code",
    "printable",
    "rejection",
]


#: Control characters but tab and newline, each as Python writes it in a string.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def printable(text: str) -> str:
    """Escape control characters: a peer's text is not to command a terminal (PROTOCOL.md §16)."""
    return text.translate(_ESCAPES)


class RlayWarning(UserWarning):
    """Something went on, but not as it was asked."""


def _rebuild(cls: type[RlayError], message: str, facts: dict[str, Any]) -> RlayError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    error.__dict__.update(facts)
    return error


class RlayError(Exception):
    """Base of all rlay errors."""

    code: ClassVar[int] = 0

    def __str__(self) -> str:
        """Return the message; some of it may be the peer's, so control characters are escaped."""
        return printable(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message and attributes, whatever the signature of ``__init__``."""
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class LayoutError(RlayError, ValueError):
    """A space, value or schema does not fit the fixed records."""

    code = 1


class UnsupportedSpaceError(LayoutError):
    """A space has no fixed size, or rlay does not know its type."""

    code = 2

    def __init__(self, path: str, space: object, reason: str) -> None:
        """Name the space by its path, such as ``observation/words``."""
        self.path = path
        self.space = space
        super().__init__(f"{path}: {type(space).__name__} space cannot be laid out: {reason}")


class SchemaError(LayoutError):
    """A schema is malformed."""

    code = 3

    def __init__(self, location: str, problem: str) -> None:
        """Name the place in the schema, such as ``groups/0/action``."""
        self.location = location
        super().__init__(f"schema at {location or 'top'}: {problem}")


class BodyTooLargeError(LayoutError):
    """A free-form value does not fit the body of its record."""

    code = 4

    def __init__(self, key: str, size: int, capacity: int, setting: str) -> None:
        """Name the largest key, the bytes needed, the bytes there are, and the setting to raise."""
        self.key = key
        self.size = size
        self.capacity = capacity
        super().__init__(
            f"{key}: the encoded value takes {size} bytes and the body holds {capacity}; "
            f"raise {setting} on the environment's side, or declare large arrays as info fields"
        )


class ChannelError(RlayError):
    """The channel's files cannot be used."""

    code = 5


class ChannelNotFoundError(ChannelError, FileNotFoundError):
    """No live server offers the channel."""

    code = 6


class ChannelBusyError(ChannelError):
    """Another live process holds this side of the channel."""

    code = 7

    def __init__(self, message: str, owner: str | None = None) -> None:
        """Name the owner as its hello describes it, when it can be read."""
        self.owner = owner
        super().__init__(f"{message} (held by {owner})" if owner else message)


class ChannelFormatError(ChannelError):
    """A file is not a channel, or its header cannot be true."""

    code = 8

    def __init__(self, where: str, field: str, found: object, expected: object) -> None:
        """Name the file, the field, and both values."""
        self.field = field
        self.found = found
        self.expected = expected
        super().__init__(f"{where}: {field} is {found}, expected {expected}")


class ProtocolVersionError(ChannelFormatError):
    """The two sides share no protocol version."""

    code = 9


class LayoutMismatchError(ChannelError):
    """The two sides disagree about the spaces or the records."""

    code = 10

    def __init__(self, first_difference: str, message: str | None = None) -> None:
        """Name the first difference, with both values."""
        self.first_difference = first_difference
        super().__init__(message or f"the two sides disagree: {first_difference}")


class UnsafePathError(ChannelError):
    """A path is a link, a special file, open to other users, or not on a local file system."""

    code = 11

    def __init__(self, path: object, problem: str, remedy: str) -> None:
        """Name the path, what is wrong with it and what to do."""
        self.path = str(path)
        super().__init__(f"{path} {problem}; {remedy}")


class NoSpaceError(ChannelError):
    """The file system has no room for the channel's files."""

    code = 12

    def __init__(self, path: object, needed: int) -> None:
        """Name the file and the bytes it needs, 0 for an empty one."""
        self.path = str(path)
        self.needed = needed
        what = f"{needed} bytes" if needed else "another file"
        super().__init__(
            f"{path}: no space for {what}; free some, enlarge the file system "
            "(in a container: --shm-size), or set RLAY_DIR to a directory with more room"
        )


class ProtocolError(RlayError):
    """A rule of the protocol was broken; raised only as one of its subclasses."""

    def __new__(cls, *args: object) -> ProtocolError:
        """Refuse to be raised as such: blame must be clear."""
        if cls is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        return super().__new__(cls, *args)


class LocalProtocolError(ProtocolError):
    """This call is not allowed now; nothing was sent."""

    code = 13


class RemoteProtocolError(ProtocolError):
    """The peer wrote something the protocol does not allow; the session is over."""

    code = 14


class PeerError(RlayError):
    """Something happened on the other side."""


class PeerClosedError(PeerError):
    """The peer said goodbye; the session is over."""

    code = 15

    def __init__(self, message: str, reason: str = "closed") -> None:
        """``reason`` is ``closed``, or ``failed`` when the peer gave up because of an error."""
        self.reason = reason
        super().__init__(message)


class RemoteError(PeerError):
    """The environment raised; the session goes on and the next ``reset()`` starts afresh."""

    code = 16

    def __init__(
        self, type: str, message: str, remote_traceback: str = "", lane: int | None = None
    ) -> None:
        """Carry the remote exception as text; ``lane`` says in which of several environments."""
        self.type = type
        self.message = message
        self.remote_traceback = remote_traceback
        self.lane = lane
        where = "the environment" if lane is None else f"lane {lane}"
        text = f"{where} raised {type}: {message}"
        if remote_traceback:
            text += f"\n\nRemote traceback:\n{remote_traceback.rstrip()}"
        super().__init__(text)


class PeerLostError(PeerError):
    """The peer vanished without a goodbye; the session is over."""

    code = 17

    def __init__(
        self,
        message: str,
        *,
        last_command: str | None = None,
        idle_for: float | None = None,
        exit_code: int | None = None,
        stderr_tail: str = "",
    ) -> None:
        """Carry what is known; ``exit_code`` and ``stderr_tail`` only for processes we launched.

        Args:
            message: what happened, where.
            last_command: the command in flight, such as ``STEP``.
            idle_for: seconds since the peer last handed over the turn.
            exit_code: of the launched process; negative is a signal number.
            stderr_tail: the last lines that process wrote to stderr.
        """
        self.last_command = last_command
        self.idle_for = idle_for
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail
        if exit_code is not None:
            how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
            message += f"; its process ended with {how}"
        if stderr_tail:
            message += f"\n\nLast lines of its stderr:\n{stderr_tail.rstrip()}"
        super().__init__(message)


class ChannelTimeoutError(RlayError, TimeoutError):
    """The deadline passed; as far as can be told the peer is alive."""

    code = 18

    def __init__(self, waited_for: str, timeout: float, phase: str) -> None:
        """Name what was waited for, how long (seconds), and the phase of the session."""
        self.waited_for = waited_for
        self.timeout = timeout
        self.phase = phase
        super().__init__(f"no {waited_for} within {timeout:g} s ({phase})")


class ToolError(RlayError):
    """A command-line tool cannot go on; the text says why."""


def _all_subclasses(cls: type[RlayError]) -> list[type[RlayError]]:
    return [cls, *(d for c in cls.__subclasses__() for d in _all_subclasses(c))]


def error_for_code(code: int) -> type[RlayError] | None:
    """Return the class with this wire code (PROTOCOL.md §13), or None."""
    if code == 0:
        return None
    return next((c for c in _all_subclasses(RlayError) if c.code == code), None)


#: What a server may reject a client with; any other code is reported as ChannelError.
_REJECTIONS: tuple[type[RlayError], ...] = (
    LayoutError,
    UnsupportedSpaceError,
    SchemaError,
    ChannelError,
    ChannelFormatError,
    ProtocolVersionError,
    LayoutMismatchError,
    NoSpaceError,
)


def rejection(code: int, text: str) -> RlayError:
    """Return the error a server's rejection stands for (PROTOCOL.md §10)."""
    cls = next((c for c in _REJECTIONS if c.code == code), ChannelError)
    # Only the text crosses the wire; the attributes of its class say where to look.
    facts: dict[type[RlayError], dict[str, Any]] = {
        UnsupportedSpaceError: {"path": "", "space": None},
        SchemaError: {"location": ""},
        LayoutMismatchError: {"first_difference": text},
        NoSpaceError: {"path": "", "needed": 0},
    }
    hello = {"field": "hello", "found": text, "expected": "what the server accepts"}
    known = hello if issubclass(cls, ChannelFormatError) else facts.get(cls, {})
    return _rebuild(cls, f"the server rejected this client: {text}", known)
