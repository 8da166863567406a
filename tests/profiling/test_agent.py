import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.profiling import agent

AGENT = Path(agent.__file__)


def job(models: dict[str, Path], **changes: Any) -> dict[str, Any]:
    return {
        "schema": agent.JOB_SCHEMA,
        "nonce": "n",
        "runtime": "onnxruntime",
        "threads": 1,
        "affinity": [],
        "models": {key: str(path) for key, path in models.items()},
        "seed": 0,
        "rounds": 3,
        "extra_rounds": 0,
        "seconds": 0.03,
        "runs": 15,
        "warmup_s": 0.005,
        "warmup_runs": 5,
        "retries": 1,
        "patience": 1.0,
        "canary": None,
        "canary_every_s": 60.0,
        "cool_s": 0.0,
        "on_drift": "keep",
        "budget_s": None,
        **changes,
    }


def run(
    folder: Path, job: dict[str, Any], *arguments: str
) -> tuple[int, list[dict[str, Any]], str]:
    """Runs the agent's copy far from edgenas, with Python isolated."""
    copy = folder / "agent.py"
    copy.write_bytes(AGENT.read_bytes())
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    ended = subprocess.run(
        [sys.executable, "-I", str(copy), str(path), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, agent.decode(ended.stdout.splitlines()), ended.stderr


def of(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [r for r in records if r["type"] == kind]


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9))))
def test_lines_come_back_and_whatever_stands_between_them_is_ignored(
    records: list[dict[str, Any]],
) -> None:
    noise = ["", "INFO: Created delegate", "deadbeef {}", "0000000g {", "x" * 300]
    lines = [line for r in records for line in (*noise, agent.encode(r))]
    assert agent.decode(lines) == records


def test_a_cut_or_flipped_line_is_never_a_record() -> None:
    line = agent.encode({"type": "visit", "median_ms": 1.25})
    for i in range(len(line)):
        assert agent.decode([line[:i]]) == []
        flipped = line[:i] + chr(ord(line[i]) ^ 1) + line[i + 1 :]
        assert agent.decode([flipped]) in ([], [{"type": "visit", "median_ms": 1.25}])


def visit(ms: float, *, final: bool = True, contended: bool = False) -> dict[str, Any]:
    return {
        "type": "visit",
        "key": "k",
        "round": 0,
        "median_ms": ms,
        "final": final,
        "contended": contended,
    }


def test_of_repeated_visits_the_calm_and_then_the_fastest_counts() -> None:
    contended = visit(5.0, final=False, contended=True)
    assert agent.finished([contended]) == {}
    assert agent.finished([contended, visit(6.0)])["k", 0]["median_ms"] == 6.0
    worse = visit(7.0, contended=True)
    assert agent.finished([contended, worse])["k", 0]["median_ms"] == 5.0


def test_withdrawn_visits_do_not_count() -> None:
    void = {"type": "void", "keys": ["k"], "round": 0}
    assert agent.finished([visit(1.0), void]) == {}
    assert agent.finished([visit(1.0), void, visit(2.0)])["k", 0]["median_ms"] == 2.0


def test_quantiles_interpolate() -> None:
    assert agent.quantile([1.0], 0.9) == 1.0
    assert agent.quantile([0.0, 1.0, 2.0], 0.5) == 1.0
    assert agent.quantile([0.0, 10.0], 0.1) == pytest.approx(1.0)


def test_real_onnx_models_are_timed_in_every_round(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    models = {"small": make_onnx("small", 1), "large": make_onnx("large", 40)}
    code, records, stderr = run(tmp_path, job(models, canary="small"))
    assert code == 0, stderr
    visits = agent.finished(records)
    assert set(visits) == {(k, r) for k in models for r in range(3)}
    for record in visits.values():
        assert 0 < record["min_ms"] <= record["p10_ms"] <= record["median_ms"] <= record["p90_ms"]
        assert record["n"] >= 5
        assert record["cpu_share"] > 0
    best = {key: min(visits[key, r]["median_ms"] for r in range(3)) for key in models}
    assert best["large"] > 2 * best["small"]
    (start,) = of(records, "start")
    assert start["conditions"]["processors"] >= 1
    assert start["timer_resolution_ns"] >= 1
    assert {r["key"] for r in of(records, "model")} == set(models)
    assert of(records, "canary")
    assert of(records, "end")[0]["complete"]


@pytest.mark.parametrize(("int8", "dtype"), [(False, "float32"), (True, "int8")])
def test_real_tflite_models_are_timed_with_inputs_of_their_type(
    tmp_path: Path, make_tflite: Callable[..., Path], *, int8: bool, dtype: str
) -> None:
    models = {"a": make_tflite("a", 1, int8=int8), "b": make_tflite("b", 3, int8=int8)}
    code, records, stderr = run(tmp_path, job(models, runtime="litert"))
    assert code == 0, stderr
    assert len(agent.finished(records)) == 6
    assert {r["dtype"] for r in of(records, "model")} == {dtype}


def test_rounds_come_in_random_order_that_the_seed_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent, "open_model", lambda *a, **k: (lambda: None, "float32"))
    orders = []
    for seed in (0, 0, 1):
        records: list[dict[str, Any]] = []
        models = {str(i): Path("x") for i in range(12)}
        assert agent.Job(job(models, seed=seed, seconds=0.0), [], records.append).run()
        orders.append([(r["round"], r["key"]) for r in of(records, "visit") if r["final"]])
    assert [r for r, _ in orders[0]] == sorted(r for r, _ in orders[0])
    rounds = [[k for r, k in orders[0] if r == n] for n in range(3)]
    assert len({tuple(r) for r in rounds}) == 3
    assert sorted(orders[0]) == sorted(orders[2])
    assert [k for _, k in orders[0]][:12] != [k for _, k in orders[2]][:12]


def test_a_model_that_does_not_load_is_named_and_the_others_go_on(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"<html>not a model</html>")
    code, records, _ = run(tmp_path, job({"bad": bad, "good": make_onnx("good", 1)}))
    assert code == 0
    assert [r["key"] for r in of(records, "failed")] == ["bad"]
    assert {key for key, _ in agent.finished(records)} == {"good"}


def test_finished_rounds_are_not_measured_again(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    models = {"a": make_onnx("a", 1), "b": make_onnx("b", 2)}
    out = tmp_path / "out.jsonl"
    assert run(tmp_path, job(models), "--out", str(out))[0] == 0
    lines = out.read_text().splitlines()
    kept = [line for line in lines if not ('"key": "b"' in line and '"round": 2' in line)]
    out.write_text("\n".join(kept) + "\n" + lines[-1][:40] + "\n")
    code, again, _ = run(tmp_path, job(models), "--out", str(out))
    assert code == 0
    assert {(r["key"], r["round"]) for r in of(again, "visit")} == {("b", 2)}
    assert len(agent.finished(agent.decode(out.read_text().splitlines()))) == 6


def test_lines_of_another_job_do_not_count(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    out = tmp_path / "out.jsonl"
    models = {"a": make_onnx("a", 1)}
    run(tmp_path, job(models), "--out", str(out))
    _, again, _ = run(tmp_path, job(models, nonce="other"), "--out", str(out))
    assert len(of(again, "visit")) >= 3


def in_process(
    monkeypatch: pytest.MonkeyPatch, done: list[dict[str, Any]] | None = None, **changes: Any
) -> tuple[bool, list[dict[str, Any]]]:
    monkeypatch.setattr(agent, "open_model", lambda *a, **k: (lambda: None, "float32"))
    records: list[dict[str, Any]] = []
    models = {str(i): Path("x") for i in range(4)}
    ok = agent.Job(job(models, seconds=0.0, **changes), done or [], records.append).run()
    return ok, records


def test_a_contended_visit_is_repeated_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent, "CPU_SHARE", 1e9)  # nothing is ever calm enough
    ok, records = in_process(monkeypatch, retries=2)
    assert ok
    visits = of(records, "visit")
    assert sum(r["final"] for r in visits) == 12
    assert 0 < sum(not r["final"] for r in visits) <= 12  # on average at most every visit twice
    assert all(r["contended"] for r in visits)


class Shared:
    """A clock that only a model moves: 2 ms a run, 4 ms while a neighbour works on the core.

    The neighbour pauses for every `pause`-th stretch of four looks at it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pause: int) -> None:
        self.pause, self.looks, self.here, self.ns = pause, 0, True, 0
        monkeypatch.setattr(agent, "clock", lambda: self.ns)
        monkeypatch.setattr(agent, "CPU_SHARE", 0.0)
        monkeypatch.setattr(agent, "Pace", lambda: self)

    def quiet(self) -> bool:
        self.looks += 1
        self.here = self.pause == 0 or self.looks // 4 % self.pause != 0
        return not self.here

    def invoke(self) -> None:
        self.ns += 4_000_000 if self.here else 2_000_000


def visit_beside(neighbour: Shared, **changes: Any) -> dict[str, Any]:
    return agent.Job(job({}, **changes), [], lambda _: None)._time("k", neighbour.invoke, 1)


def test_only_slices_between_quiet_moments_count(monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = Shared(monkeypatch, pause=3)
    record = visit_beside(neighbour, runs=12, seconds=0.06, patience=20.0)
    assert (record["min_ms"], record["p90_ms"], record["contended"]) == (2.0, 2.0, False)
    assert record["n"] >= 10  # 20 ms of its own
    assert 0 < record["quiet_share"] < 0.5


def test_patience_with_a_neighbour_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = Shared(monkeypatch, pause=0)
    record = visit_beside(neighbour, runs=12, seconds=0.06, patience=4.0)
    assert (record["median_ms"], record["quiet_share"]) == (4.0, 0.0)
    assert record["contended"]
    assert not record["deprived"]
    assert neighbour.ns == 2 * 4_000_000 + 100_000_000  # five times its share of 20 ms


def test_the_pace_is_compared_with_the_best_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = agent.Pace()
    times = iter([150, 100, 100, 300, 107, 109, 109, 90, 200, 98])
    monkeypatch.setattr(pace, "_once", lambda: next(times))
    pace.best_ns = 150
    # the better of two: 100, 100, 107, then 90 is a new best, and 98 is too slow for it
    assert [pace.quiet() for _ in range(5)] == [True, True, True, True, False]


def test_a_drifting_canary_withdraws_what_came_since_three_times_and_then_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent, "DRIFT", -1.0)  # never good
    ok, records = in_process(monkeypatch, canary="0", on_drift="stop")
    assert not ok
    assert len(of(records, "void")) == 3
    ok, records = in_process(monkeypatch, canary="0", on_drift="keep")
    assert ok
    assert len(of(records, "void")) == 3
    assert len(agent.finished(records)) == 12


def test_a_time_budget_ends_after_whole_rounds_and_never_before_three(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ok, records = in_process(monkeypatch, rounds=6, budget_s=1e-9)
    assert not ok
    assert {r["round"] for r in of(records, "visit")} == {0, 1, 2}


@pytest.mark.parametrize(("budget_s", "rounds"), [(1e-9, 3), (3600.0, 5), (None, 5)])
def test_rounds_beyond_those_asked_for_are_made_only_where_the_time_has_room_for_them(
    monkeypatch: pytest.MonkeyPatch, budget_s: float | None, rounds: int
) -> None:
    monkeypatch.setattr(agent, "CONFIRMED", -1.0)  # no round confirms another
    ok, records = in_process(monkeypatch, rounds=3, extra_rounds=2, budget_s=budget_s)
    assert ok
    assert {r["round"] for r in of(records, "visit")} == set(range(rounds))


@pytest.mark.parametrize(("n_visits", "affordable"), [(5, True), (6, False)])
def test_a_round_must_end_within_the_time_at_the_pace_of_the_visits_so_far(
    monkeypatch: pytest.MonkeyPatch,
    n_visits: int,
    affordable: bool,  # noqa: FBT001
) -> None:
    running = agent.Job(job({"0": Path("x")}, budget_s=15.0), [], lambda _: None)
    running.visited = 10
    monkeypatch.setattr(agent, "clock", lambda: int(10e9))
    assert running._affordable(n_visits, 0) is affordable


def test_a_model_that_kills_the_process_twice_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once = [{"type": "opening", "key": "2"}]
    _, records = in_process(monkeypatch, once)
    assert not of(records, "failed")
    ok, records = in_process(monkeypatch, once * 2)
    assert ok
    assert [r["key"] for r in of(records, "failed")] == ["2"]
    assert "2" not in {key for key, _ in agent.finished(records)}


class Clock:
    """A timer that only models move: the n-th call of `invoke` takes `cost(n)` ns."""

    def __init__(self, cost: Callable[[int], int]) -> None:
        self.now, self.calls, self.cost = 0, 0, cost

    def __call__(self) -> int:
        return self.now

    def invoke(self) -> None:
        self.now += self.cost(self.calls)
        self.calls += 1


@pytest.mark.parametrize(
    ("cost", "stable"),
    [
        (lambda n: 1_000_000, True),
        (lambda n: 9_000_000 if n < 7 else 1_000_000, True),  # slow at first
        (lambda n: 1_000_000 + 50_000 * n, False),  # ever slower
    ],
)
def test_warm_up_ends_when_windows_agree_or_after_four_times_its_span(
    monkeypatch: pytest.MonkeyPatch, cost: Callable[[int], int], *, stable: bool
) -> None:
    clock = Clock(cost)
    monkeypatch.setattr(agent, "clock", clock)
    assert agent.warm_up(clock.invoke, 10, 0.1, 1) is stable
    assert clock.calls >= 10
    assert 0.1e9 <= clock.now <= 0.6e9
    if cost(0) > cost(30):
        assert clock.calls >= 15  # the slow window, and two that agree


def test_samples_of_fast_models_hold_many_runs() -> None:
    calls = []
    samples = agent.run_many(lambda: calls.append(1), 7, 0.0, 25)
    assert len(samples) == 7
    assert len(calls) == 175


def test_a_foreign_job_and_a_missing_runtime_have_their_own_status(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    models = {"a": make_onnx("a", 1)}
    assert run(tmp_path, job(models, schema="edgenas.job/9"))[0] == 2
    code = "import sys; sys.modules['onnxruntime'] = None; import runpy; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    (tmp_path / "job.json").write_text(json.dumps(job(models)))
    ended = subprocess.run(
        [sys.executable, "-c", code, str(AGENT), str(tmp_path / "job.json")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 4
    assert "onnxruntime" in ended.stderr


def test_a_best_round_that_no_other_confirms_gets_further_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Model 1 wavers for ever, model 2 for three rounds, the others are steady."""
    times = {"0": [1.0], "1": [2.0 ** (10 - n) for n in range(11)], "2": [4.0, 3.0, 2.0, 2.01]}
    seen: dict[str, int] = {}

    def fake(self: agent.Job, key: str, invoke: Any, batch: int) -> dict[str, Any]:
        n = seen[key] = seen.get(key, -1) + 1
        values = times.get(key, [1.0])
        return {"median_ms": values[min(n, len(values) - 1)], "contended": False}

    monkeypatch.setattr(agent.Job, "_time", fake)
    ok, records = in_process(monkeypatch, extra_rounds=4)
    assert ok
    rounds: dict[str, int] = {}
    for key, _ in agent.finished(records):
        rounds[key] = rounds.get(key, 0) + 1
    assert rounds == {"0": 3, "1": 7, "2": 4, "3": 3}


def test_a_line_that_was_cut_does_not_swallow_the_next_start(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    out = tmp_path / "out"
    work = job({"a": make_onnx("a", 1)}, rounds=1, retries=0)
    run(tmp_path, work, "--out", str(out))
    out.write_text(out.read_text("utf-8")[:-20], "utf-8")
    assert run(tmp_path, work, "--out", str(out))[0] == 0
    kinds = [r["type"] for r in agent.decode(out.read_text("utf-8").splitlines())]
    assert kinds.count("start") == 2
    assert kinds.count("visit") == 1


def test_what_another_version_of_the_runtime_took_is_measured_anew(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    done = tmp_path / "done"
    work = job({"a": make_onnx("a", 1)}, rounds=2, retries=0, names={"a": "unit a"})
    _, before, _ = run(tmp_path, work)
    before[0]["runtime_version"] = "0.1"
    done.write_text("\n".join(map(agent.encode, before)) + "\n", "utf-8")
    status, found, _ = run(tmp_path, work, "--done", str(done))
    assert status == 0
    assert len(of(found, "visit")) == 2
    assert [r["name"] for r in of(found, "planned")] == ["unit a"]
    assert agent.of_version([*before, *found], found[0]["runtime_version"]) == found
    done.write_text("\n".join(map(agent.encode, [*before, *found])) + "\n", "utf-8")
    assert [r["type"] for r in run(tmp_path, work, "--done", str(done))[1]] == ["start", "end"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen")
def test_processors_that_are_not_there_are_named(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    work = job({"a": make_onnx("a", 1)}, affinity=[0, 1023])
    status, found, told = run(tmp_path, work)
    assert (status, found) == (5, [])
    assert "processors [1023] are not there" in told


@pytest.mark.parametrize(("kind", "opens"), [("BOOL", True), ("DOUBLE", True), ("STRING", False)])
def test_inputs_of_any_type_of_number_are_made_and_others_named(
    tmp_path: Path,
    kind: str,
    opens: bool,  # noqa: FBT001
) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    dtype = getattr(TensorProto, kind)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [helper.make_tensor_value_info("x", dtype, [2, 3])],
        [helper.make_tensor_value_info("y", dtype, [2, 3])],
    )
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    rng = np.random.default_rng(0)
    if opens:
        agent.open_model(str(path), runtime="onnxruntime", threads=1, rng=rng)[0]()
    else:
        with pytest.raises(ValueError, match=r"input 'x' is tensor\(string\)"):
            agent.open_model(str(path), runtime="onnxruntime", threads=1, rng=rng)


def test_a_kit_for_another_version_of_the_runtime_is_not_begun(
    tmp_path: Path, make_onnx: Callable[[str, int], Path]
) -> None:
    work = job({"a": make_onnx("a", 1)}, names={"a": "unit a"}, runtime_version="0.1")
    status, found, told = run(tmp_path, work)
    assert (status, found) == (6, [])
    assert "this kit is for onnxruntime 0.1, here is " in told
