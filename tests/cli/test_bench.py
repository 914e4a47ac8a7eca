from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlay import cli
from rlay.errors import ToolError
from rlay.tools.bench import breakdown, command, death, goals, image, plot, step, table, vector
from rlay.tools.bench.contenders import Contender, interleave, open_contenders, python_steps
from rlay.tools.bench.plan import GROUPS, QUICK, plan_for
from rlay.tools.bench.programs import Program
from rlay.tools.bench.results import MissingPeerError, Results, Row
from rlay.tools.bench.stage import Stage, strategies, variables
from tests import peers

ROOT = Path(__file__).parents[2]
TINY = ["--quick", "--rounds", "2", "--steps", "20"]
STEP_KEYS = {*step.LABELS, *(f"python_python_{name}" for name in strategies())}
IMAGE_KEYS = {f"{image.size_name(shape)}/{way}" for shape in image.SHAPES for way in image.WAYS}

pytestmark = pytest.mark.timeout(180)


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``rlay bench`` in a process of its own, with sizes that measure nothing."""
    return subprocess.run(
        [sys.executable, "-m", "rlay", "bench", *TINY, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def bench_json(*arguments: str, **environment: str) -> dict[str, Any]:
    done = bench("--json", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def keys(document: dict[str, Any], part: str, group: str) -> set[str]:
    return {one["key"] for one in document[part] if one["group"] == group}


def check_ratios(document: dict[str, Any]) -> None:
    """Compute the figures again, from the medians in the same document."""
    rows = {f"{row['group']}:{row['key']}": row for row in document["rows"]}
    for ratio in document["ratios"]:
        numbers = [rows[name][ratio["statistic"]] for name in ratio["rows"] if name in rows]
        assert ratio["missing"] == [name for name in ratio["rows"] if name not in rows]
        if ratio["missing"]:
            assert ratio["value"] is None
            assert ratio["met"] is None
            continue
        if ratio["key"] == "step_overhead_vs_async":
            peer, ours, base = numbers
            expected = (peer - base) / max(ours - base, 1.0)
        elif " / " in ratio["formula"]:
            expected = numbers[0] / numbers[1]
        elif " - " in ratio["formula"]:
            expected = numbers[0] - numbers[1]
        else:
            expected = max(numbers)
        assert ratio["value"] == pytest.approx(expected), ratio
        compare = {"<=": operator.le, ">=": operator.ge}[ratio["relation"]]
        assert ratio["met"] is compare(ratio["value"], ratio["goal"])


def test_step_measures_every_contender_or_says_what_is_missing(tmp_path: Path) -> None:
    picture = tmp_path / "bench.png"
    document = bench_json("--only", "step", "--plot", str(picture))
    measured, missing = keys(document, "rows", "step"), keys(document, "missing", "step")
    assert measured | missing == STEP_KEYS
    assert not measured & missing
    assert {"in_process", "python_python", "pipe", "tcp", "async_vector"} <= measured
    for row in document["rows"]:
        assert len(row["rounds"]) == 2
        assert row["min"] <= row["median"] <= row["max"]
        assert row["unit"] == "ns/step"
        assert row["steps_per_round"] == 20
    assert {ratio["key"] for ratio in document["ratios"]} == {
        goal.key for goal in goals.GOALS if goal.rows[0].startswith("step:")
    }
    check_ratios(document)
    assert document["machine"]["atomics"] in ("compiled", "pure")
    assert document["machine"]["usable_cores"] >= 1
    assert "median" in document["method"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_missing_compiler_is_said_and_the_rest_is_measured() -> None:
    document = bench_json("--only", "step", CC="no-such-compiler")
    why = {one["key"]: one["why"] for one in document["missing"]}
    for key in ("ping_pong", "c_c", "c_python"):
        assert why[key] == "no no-such-compiler here to build the C programs"
    assert "python_python" in keys(document, "rows", "step")
    check_ratios(document)
    [ratio] = (one for one in document["ratios"] if one["key"] == "c_c_vs_ping_pong")
    assert ratio["missing"] == ["step:c_c", "step:ping_pong"]


def test_the_other_groups_hold_their_rows() -> None:
    groups = ("image", "crowd", "idle", "death", "import")
    document = bench_json(*(word for group in groups for word in ("--only", group)))
    assert keys(document, "rows", "image") | keys(document, "missing", "image") == IMAGE_KEYS
    idle_keys = {f"{role}_default" for role in ("env", "agent")}
    assert idle_keys <= keys(document, "rows", "idle")
    named = {f"{role}_{name}" for role in ("env", "agent") for name in strategies()}
    everything = keys(document, "rows", "idle") | keys(document, "missing", "idle")
    assert everything == {*idle_keys, *named, "c_env"}
    assert keys(document, "rows", "crowd") == {"rlay", "pipe"}
    assert keys(document, "rows", "death") == set(death.WAYS)
    assert keys(document, "rows", "import") == {"time", "memory"}
    for row in document["rows"]:
        if row["key"].endswith("/c_view"):
            assert row["mb_per_s"] is None
        elif row["group"] == "image":
            assert row["mb_per_s"] == pytest.approx(row["bytes"] / row["median"] * 1e3)
    check_ratios(document)


def test_vector_measures_rlay_beside_gymnasium() -> None:
    results, plan = Results(), plan_for(quick=True, rounds=1, steps=2)
    plan = type(plan)(**{**plan.__dict__, "lanes": (2,), "workers": (1, 2, 8)})
    with Stage() as stage:
        vector.measure(stage, plan, results)
    found = {row.key for row in results.group("vector")}
    assert found == {"2/sync", "2/async", "2/rlay_1", "2/rlay_2"}, results.missing


def test_tables_are_shown_where_there_is_no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results()
    results.add(Row("step", "one", "first", "ns/step", [1500.0, 2500.0], {"overhead": 1950.0}))
    results.add(Row("death", "a", "killed", "ms", [1.0, 30.0]))
    results.miss("step", "other", "not here")
    with_rich = table.text(results, goals.judge(results), ["machine"], "method")
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda _: None)
    plain = table.text(results, goals.judge(results), ["machine"], "method")
    for text in (with_rich, plain):
        assert "2 µs" in text
        assert "1.95 µs" in text
        assert "step other: not here" in text
    lines = plain.splitlines()
    head, line = next((a, b) for a, b in itertools.pairwise(lines) if "median" in a)
    assert head.index("median") + len("median") == line.index("2 µs") + len("2 µs")


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0.0, "0 ns"), (320.4, "320 ns"), (1850.0, "1.85 µs"), (12.4e6, "12.4 ms"), (2e9, "2 s")],
)
def test_durations_are_readable(nanoseconds: float, text: str) -> None:
    assert table.duration(nanoseconds) == text


def many_rows() -> Results:
    results = Results()
    results.add(Row("step", "c_c", "rlay, C env - C agent", "ns/step", [100.0, 120.0]))
    for shape in image.SHAPES:
        for way in image.WAYS:
            key = f"{image.size_name(shape)}/{way}"
            results.add(Row("image", key, key, "ns/step", [1000.0]))
    for lanes in (1, 8):
        for kind in ("sync", "async", "rlay_1"):
            facts = {"lanes": lanes, "kind": kind}
            key = vector.key_of(lanes, kind)
            results.add(Row("vector", key, key, "env-steps/s", [1000.0 * lanes], facts))
    return results


def test_a_plot_has_a_panel_for_each_group(tmp_path: Path) -> None:
    plot.draw(many_rows(), ["machine"], tmp_path / "all.png")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="nothing that is plotted"):
        plot.draw(Results(), ["machine"], tmp_path / "none.png")


@pytest.mark.parametrize("name", ["nowhere/bench.png", "bench.pdf"])
def test_a_plot_that_cannot_be_drawn_is_refused_first(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure", pytest.fail)
    assert cli.main(["bench", "--plot", str(tmp_path / name)]) == cli.FAILED
    assert "--plot" in capsys.readouterr().err


def counting(values: list[str], name: str) -> Callable[[int, int], tuple[int, int]]:
    def run(steps: int, _limit_ns: int, /) -> tuple[int, int]:
        values.append(name)
        return steps, 10 * steps

    return run


def test_contenders_take_turns() -> None:
    order: list[str] = []
    made = {name: Contender(counting(order, name)) for name in "ABC"}
    turns = interleave(Results(), "step", made, rounds=2, sample_ns=1000, steps=5)
    # The warm-up, then for each round a short run and the one that counts.
    assert "".join(order) == "ABC" + "AABBCC" * 2
    assert turns["A"].per_step_ns == [10.0, 10.0]
    assert turns["A"].steps == 5


def test_who_fails_on_the_way_is_missing_and_the_others_go_on() -> None:
    def fail(steps: int, _limit_ns: int, /) -> tuple[int, int]:
        raise MissingPeerError("gone")

    results, order = Results(), []
    made = {"bad": Contender(fail), "good": Contender(counting(order, "good"))}
    turns = interleave(results, "step", made, rounds=1, sample_ns=1000, steps=5)
    assert set(turns) == {"good"}
    assert results.missing == [
        {"group": "step", "key": "bad", "why": "failed in round 0: gone"},
    ]


def test_helpers_are_held_still_but_for_their_turn() -> None:
    events: list[str] = []

    class Helper:
        def pause(self) -> None:
            events.append("pause")

        def resume(self) -> None:
            events.append("resume")

    made = {"one": lambda: Contender(counting(events, "run"), [Helper()])}
    opened = open_contenders(Results(), "step", made)
    assert events == ["pause"]
    interleave(Results(), "step", opened, rounds=1, sample_ns=1000, steps=5)
    assert events[1:] == ["resume", "run", "pause", "resume", "run", "run", "pause"]


def test_a_slow_turn_ends_early() -> None:
    taken = []
    run = python_steps(taken.append, None)
    assert run(1000, 0) == (0, 0)
    done, _ = run(1000, 1)
    assert done == len(taken) < 1000
    assert run(10, 10**12)[0] == 10


def test_a_program_that_does_not_answer_is_missing_and_ended() -> None:
    program = Program([sys.executable, "-c", "import time; time.sleep(600)"], {})
    with pytest.raises(MissingPeerError, match=r"did not answer within 0.1 s"):
        program.ask("1 1", 0.1)
    program._process.kill()
    program.end()
    program = Program([sys.executable, "-c", "raise SystemExit('no peer')"], {})
    with pytest.raises(MissingPeerError, match="ended: no peer"):
        program.ask("1 1", 30.0)
    program.end()


def test_everything_ends_with_the_stage(channel_root: Path) -> None:
    with Stage() as stage, stage.scene():
        assert os.environ["RLAY_DIR"] == str(stage.root)
        contender = stage.python_env(step.NoOpEnv)
        [child] = contender.helpers
        child.pause()
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []
    assert os.environ["RLAY_DIR"] == str(channel_root)
    assert list(channel_root.iterdir()) == []


def processes_of(session: int) -> list[str]:
    """The states of the processes of a session that are not over: T is held still."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session, *_ = entry.read_text().rpartition(") ")[2].split()
            if int(its_session) == session and state not in "ZX":
                found.append(state)
    return found


@pytest.mark.leaves_files
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_survives_a_bench_that_is_killed(number: int, channel_root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rlay", "bench", "--only", "step"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        # One that is held still would not notice the end of its peer.
        peers.until(lambda: "T" in processes_of(process.pid), "the bench has started its peers")
        process.send_signal(number)
        process.wait(60)
        peers.until(lambda: not processes_of(process.pid), "all its processes are gone")
        if number == signal.SIGTERM:
            assert list(channel_root.iterdir()) == []
    finally:
        process.kill()
        process.wait()


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAY_BENCH_ONE", "before")
    monkeypatch.delenv("RLAY_BENCH_TWO", raising=False)
    with variables(RLAY_BENCH_ONE="in", RLAY_BENCH_TWO="in"):
        assert os.environ["RLAY_BENCH_TWO"] == "in"
    with variables(RLAY_BENCH_ONE=None):
        assert os.environ["RLAY_BENCH_ONE"] == "before"
    assert "RLAY_BENCH_TWO" not in os.environ


def test_the_parts_of_a_step_add_up_to_the_whole() -> None:
    results = Results()
    medians = {"ping_pong": 60, "c_c": 140, "c_python": 900, "python_python": 1700}
    for key, value in {**medians, "in_process": 50}.items():
        results.add(Row("step", key, key, "ns/step", [float(value)]))
    *parts, whole = breakdown.explain(results)
    assert [part["ns"] for part in parts] == [60, 80, 760, 750, 50]
    assert sum(part["ns"] for part in parts) == whole["ns"] == 1700
    del results.rows["step", "c_c"]
    assert [part["ns"] for part in breakdown.explain(results)] == [60, None, None, 750, 50, 1700]


def test_noise_is_named() -> None:
    results = Results()
    results.add(Row("step", "c_c", "", "ns/step", [100.0, 100.0, 900.0, 900.0]))
    results.add(Row("step", "ping_pong", "", "ns/step", [60.0, 61.0, 62.0, 900.0]))
    [ratio] = (one for one in goals.judge(results) if one["key"] == "c_c_vs_ping_pong")
    assert ratio["noisy"] == ["step:c_c", "step:ping_pong"]
    results.add(Row("step", "ping_pong", "", "ns/step", [60.0, 61.0, 62.0, 63.0]))
    [ratio] = (one for one in goals.judge(results) if one["key"] == "c_c_vs_ping_pong")
    assert ratio["noisy"] == ["step:c_c"]


def test_rounds_hold_for_every_group_and_never_raise_the_trials() -> None:
    plan = plan_for(quick=True, rounds=3, steps=7)
    assert (plan.rounds, plan.image_rounds, plan.vector_rounds) == (3, 3, 3)
    assert plan.steps == 7
    assert plan_for(quick=True, rounds=999).trials == QUICK.trials


def test_every_goal_names_rows_of_a_group() -> None:
    for goal in goals.GOALS:
        assert {row.partition(":")[0] for row in goal.rows} <= set(GROUPS)
    assert set(command._MEASURES) == set(GROUPS)
