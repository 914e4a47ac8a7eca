"""What may come of a call that failed: success, or an error that says what and what to do.

``story.py`` and ``story.c`` report facts; the verdict is here, one for both languages.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from rlay import errors
from tests.faults.errnos import MUST_RETRY, NO_SPACE, TELLING

Case = tuple[str, int, int]


def judge(case: Case, facts: dict[str, Any]) -> list[str]:
    """Return what is wrong with these facts as what came of this case."""
    function, _, number = case
    problems = [*facts["strange"]]
    if facts["outcome"] == "success":
        if not facts["complete"]:
            problems.append("the results are not those of the story")
    elif not facts["fired"]:
        problems.append(f"{facts['outcome']} although nothing failed: {facts['text']}")
    else:
        problems += _judge_error(function, number, facts["outcome"], facts["text"])
    if not facts["right"]:
        problems.append("a result is wrong")
    if facts["descriptors"]:
        problems.append(f"{facts['descriptors']} descriptors are still open")
    # What cannot be unmapped stays mapped, and what cannot be removed stays, whoever tried;
    # and a file that is said to be gone, or another's, is not removed.
    if facts["mappings"] and function != "munmap":
        problems.append(f"{facts['mappings']} mappings are still there")
    told_gone = function == "stat" and number in TELLING["stat"]
    if facts["left"] and function != "unlink" and not told_gone:
        problems.append(f"left behind: {', '.join(facts['left'])}")
    if facts["again"]:
        problems.append(f"the next pair did not work: {facts['again']}")
    if facts["left_again"]:
        problems.append(f"left behind by the next pair: {', '.join(facts['left_again'])}")
    return problems


def _judge_error(function: str, number: int, outcome: str, text: str) -> list[str]:
    problems = []
    name = errno.errorcode[number]
    if not issubclass(getattr(errors, outcome, object), errors.RlayError):
        return [f"{outcome} is no error of rlay: {text}"]
    if number == errno.EINTR and function in MUST_RETRY:
        problems.append(f"EINTR was not tried again: {text}")
    if "; " not in text or not text.split("; ", 1)[1].strip():
        problems.append(f"the error does not say what to do: {text}")
    if number in NO_SPACE and function in {"open", "mkdir", "fallocate", "rename"}:
        if outcome != "NoSpaceError":
            problems.append(f"{name} became {outcome}: {text}")
    elif number not in TELLING.get(function, ()) and os.strerror(number) not in text:
        problems.append(f"{name} became {outcome}, which does not name it: {text}")
    return problems
