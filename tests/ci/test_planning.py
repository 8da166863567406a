"""What each kind of change makes stale, and what is said of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from edgenas.artifacts import sha256_file
from edgenas.ci import STAGES, plan, read_lock, stages
from edgenas.ci.planning import changes_between
from edgenas.cli.main import main
from edgenas.errors import SpecError, UsageError
from edgenas.hardware import load_device
from edgenas.latency import read_table, table_file, write_table
from edgenas.spaces import OpSpec
from edgenas.testing.fakes import tiny_space
from tests.ci.conftest import (
    BOARD,
    OTHER,
    change,
    planned,
    remeasure,
    told,
    write_other_supernet,
)

AFTER_SEARCH = ("search", "select", "export", "verify")
AFTER_SELECT = ("select", "export", "verify")


def bound(new: str) -> Callable[[], None]:
    return lambda: change("targets.toml", "latency_ms <= 0.028", new)


def of_both(*devices: str) -> Callable[[], None]:
    names = ", ".join(f'"{name}"' for name in devices)
    return lambda: change(
        "targets.toml", f'devices = ["{BOARD}", "{OTHER}"]', f"devices = [{names}]"
    )


def second_device() -> None:
    change("targets.toml", "[target.board]", f'[target.board]\ndevices = ["{BOARD}", "{OTHER}"]')
    change("targets.toml", '"latency_ms <= 0.028"', f'"latency_ms@{BOARD} <= 0.028"')


CASES: dict[str, tuple[str, Callable[[], object], tuple[str, ...], str]] = {
    "bound tightened beyond the front": (
        "board", bound("latency_ms <= 0.02"), AFTER_SEARCH,
        f"bound latency_ms@{BOARD} <= 0.028 became <= 0.02: ",
    ),
    "bound tightened, and the front meets it": (
        "board", bound("latency_ms <= 0.02799"), AFTER_SELECT,
        f"bound latency_ms@{BOARD} <= 0.028 became <= 0.02799: all of the front's",
    ),
    "bound loosened": (
        "board", bound("latency_ms <= 0.04"), AFTER_SEARCH,
        f"bound latency_ms@{BOARD} <= 0.028 became <= 0.04: beyond the old one nothing was tried",
    ),
    "bound removed": (
        "board", lambda: change("targets.toml", 'bounds = ["latency_ms <= 0.028"]', ""),
        AFTER_SEARCH, f"bound latency_ms@{BOARD} removed (<= 0.028): beyond it nothing was tried",
    ),
    "device added": (
        "board", second_device, ("score", *AFTER_SEARCH), f"device {OTHER} added",
    ),
    "device removed": (
        "both", of_both(BOARD), AFTER_SELECT, f"device {OTHER} removed",
    ),
    "table measured again": (
        "board", lambda: remeasure(1.2), ("score", *AFTER_SEARCH),
        f"table of {BOARD} measured again: the front moved by 20.0 % in the median",
    ),
    "supernet retrained": (
        "board", lambda: write_other_supernet(Path(), seed=1), ("evaluate", *AFTER_SEARCH),
        "supernet retrained: ",
    ),
    "format added": (
        "board",
        lambda: change("targets.toml", "bounds =", 'formats = ["onnx", "onnx-int8"]\nbounds ='),
        ("export", "verify"), "format onnx-int8 added",
    ),
    "seed changed": (
        "board", lambda: change("run.toml", 'name = "tiny"', "seed = 1"),
        ("evaluate", *AFTER_SEARCH), "seed: 0 became 1",
    ),
    "strategy changed": (
        "board", lambda: change("run.toml", "trials = 24", 'trials = 24\nstrategy = "nsga2"'),
        AFTER_SEARCH, "search strategy: surrogate became nsga2",
    ),
    "final training asked for": (
        "board",
        lambda: change("run.toml", "[search]", "[final]\nepochs = 1\n\n[search]"),
        ("finish", "export", "verify"), "final epochs added (1)",
    ),
    "a device to hold files against": (
        "board",
        lambda: change(
            "run.toml", "[export]", '[export]\ntargets = ["x86-onnxruntime-fp32-t4"]'
        ),
        ("score", *AFTER_SEARCH), "target x86-onnxruntime-fp32-t4 added",
    ),
    "more networks exported": (
        "board", lambda: change("run.toml", "top = 1", "top = 3"), AFTER_SELECT,
        "select top: 1 became 3",
    ),
    "another costly objective": (
        "board",
        lambda: change("run.toml", '"max top1"', '"max top1", "max top1_int8"'),
        ("evaluate", *AFTER_SEARCH), "metric top1_int8 added (1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_change_makes_stale_and_why(locked: Path, case: str) -> None:
    name, make, stale, reason = CASES[case]
    make()
    found = planned(name)
    assert found.state == "stale"
    assert found.stale == stale
    assert any(change.text.startswith(reason) for change in found.changes), found.changes
    assert found.changes[0].stage == stale[0]
    assert all(change.stage in stale for change in found.changes)
    assert [entry["stage"] for entry in found.document()["stale"]] == list(stale)


@pytest.mark.parametrize(
    ("metric", "name", "value"),
    [("robustness", "robustness_images", "500"), ("agreement", "unlabelled", '"photos, 3 files"')],
)
def test_an_accuracy_objective_taken_away_needs_no_evaluation(
    locked: Path, metric: str, name: str, value: str
) -> None:
    facts = f'"metric {metric}" = 1\n"objective {metric}" = "max"\n"evaluate {name}" = {value}'
    change("edgenas.lock", "[target.board.from]", f"[target.board.from]\n{facts}")
    found = planned()
    assert found.stale == AFTER_SELECT
    assert found.reasons["select"] == [f"objective {metric} removed (max)"]
    change("edgenas.lock", f'"metric {metric}" = 1\n', "")
    change("run.toml", '"max top1"', f'"max top1", "max {metric}"')
    assert planned().stale[0] == "evaluate", "asked for anew"


def without_its_table() -> None:
    text = Path("edgenas.lock").read_text("utf-8")
    text = re.sub(rf'"table {BOARD}" = "[0-9a-f]{{12}}"\n', "", text, count=1)
    Path("edgenas.lock").write_text(text, "utf-8")


def without_a_network() -> None:
    text, entry = Path("edgenas.lock").read_text("utf-8"), read_lock(Path("edgenas.lock"))["board"]
    key = next(key for key in entry.front if key not in entry.exported)
    text = re.sub(rf"(?s)\[target\.board\.front\.{key}\]\n.*?\n\n", "", text)
    Path("edgenas.lock").write_text(text, "utf-8")


def with_another_latency() -> None:
    found = min(
        n.metrics[f"latency_ms@{BOARD}"]
        for n in read_lock(Path("edgenas.lock"))["board"].front.values()
    )
    text = Path("edgenas.lock").read_text("utf-8")
    Path("edgenas.lock").write_text(text.replace(f"= {found}\n", "= 0.0123\n", 1), "utf-8")


LOST: dict[str, tuple[Callable[[], None], str, str]] = {
    "table": (without_its_table, "score", f"table {BOARD} added"),
    "network": (without_a_network, "export", "the lock has not"),
    "latency": (with_another_latency, "export", "locked 0.0123"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_lock_that_lost_a_line_is_noticed(locked: Path, case: str) -> None:
    lose, stage, text = LOST[case]
    lose()
    found = planned()
    assert found.stale[0] == stage
    assert text in found.changes[0].text
    assert main(["ci", "check", "--target", "board"]) == 5


@pytest.mark.parametrize("fact", ['"quantise bits" = 8', '"revision prune" = 1'])
def test_a_fact_of_another_edgenas_stales_all_from_the_first_stage_on(
    locked: Path, capfd: pytest.CaptureFixture[str], fact: str
) -> None:
    Path("base.lock").write_bytes(Path("edgenas.lock").read_bytes())
    change("edgenas.lock", "[target.board.from]", f"[target.board.from]\n{fact}")
    found = planned()
    assert found.stale == ("evaluate", *AFTER_SEARCH)
    (reason,) = found.reasons["evaluate"]
    assert reason.startswith(fact.split('"')[1])
    assert reason.endswith("this edgenas knows no such fact")
    assert main(["ci", "check"]) == 5
    assert main(["ci", "comment", "--base", "base.lock"]) == 0
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "stage", [name for name in STAGES if name not in ("supernet", "evaluate", "finish")]
)
def test_another_revision_of_a_stage(
    locked: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    now = STAGES[stage].revision
    later = replace(STAGES[stage], revision=now + 1)
    monkeypatch.setattr(stages, "STAGES", MappingProxyType({**STAGES, stage: later}))
    found = planned()
    order = [name for name in STAGES if name != "finish"]
    assert found.stale == tuple(order[order.index(stage) :])
    assert [change.text for change in found.changes] == [
        f"revision of {stage}: {now} became {now + 1}"
    ]


@pytest.mark.parametrize(
    ("stage", "stale"),
    [
        ("supernet", ("supernet", "evaluate", "search", "select", "finish", "export", "verify")),
        ("finish", ("finish", "export", "verify")),
    ],
)
def test_another_revision_of_a_training(
    locked: Path, monkeypatch: pytest.MonkeyPatch, stage: str, stale: tuple[str, ...]
) -> None:
    """Of a target that trains its supernet and the networks that it exports."""
    entry = read_lock(Path("edgenas.lock"))["board"]
    known = {**entry.facts, "train epochs": 24, "final epochs": 8}
    known |= stages.revisions(stages.stages_of(known))
    now = STAGES[stage].revision
    later = replace(STAGES[stage], revision=now + 1)
    monkeypatch.setattr(stages, "STAGES", MappingProxyType({**STAGES, stage: later}))
    raised = {**known, **stages.revisions(stages.stages_of(known))}
    found = changes_between(replace(entry, facts=known), raised)
    assert [change.text for change in found] == [f"revision of {stage}: {now} became {now + 1}"]
    first = [change.stage for change in found]
    assert stages.following(first, stages.stages_of(raised)) == stale


def test_another_revision_of_how_a_metric_is_evaluated(
    locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgenas.ci.facts.REVISIONS", {"top1": 2})
    found = planned()
    assert found.stale == ("evaluate", *AFTER_SEARCH)
    assert found.changes[0].text == "revision of top1: 1 became 2"


def test_a_table_measured_again_within_its_noise_stales_nothing(locked: Path) -> None:
    for factor in (1.02, 0.98):
        before = remeasure(factor)
        found = planned()
        assert (found.state, found.stale) == ("fresh", ())
        (note,) = found.notes
        assert note.startswith(
            f"table of {BOARD} measured again, within its noise: the front moved"
        )
        write_table(before, Path("latency_tables") / f"{BOARD}.json")
    assert planned().notes == ()
    remeasure(1.03)
    assert main(["ci", "run", "--quiet"]) == 0
    lock = Path("edgenas.lock").read_text("utf-8")
    assert "[target.board.noted]" in lock
    remeasure(1.03)
    assert planned().stale[0] == "score", "small steps add up: the lock's front is what counts"


def test_a_table_may_not_move_by_more_than_the_error_it_states(locked: Path) -> None:
    path = Path("latency_tables") / f"{BOARD}.json"
    remeasure(1.03)
    for stated, state in ((0.02, "stale"), (0.05, "fresh")):
        write_table(replace(read_table(path), validation={"error_median": stated}), path)
        found = planned()
        assert found.state == state
        assert f"its stated error is {100 * stated:.1f} %" in found.changes[0].text


def unused() -> set[OpSpec]:
    """Units in no network of the board's locked front."""
    space = tiny_space()
    front = read_lock(Path("edgenas.lock"))["board"].front.values()
    lowered = [space.lower(space.parse(network.architecture)) for network in front]
    return set(space.units()) - {node.op for lowering in lowered for node in lowering.nodes}


def faster(units: set[OpSpec], factor: float) -> None:
    """The table of the board with these units faster by `factor`."""
    path = Path("latency_tables") / f"{BOARD}.json"
    table = read_table(path)
    entries = {
        op: replace(
            e, latency_ms=e.latency_ms / factor, p10_ms=e.p10_ms / factor,
            p50_ms=e.p50_ms / factor, p90_ms=e.p90_ms / factor,
        ) if op in units else e
        for op, e in table.entries.items()
    }  # fmt: skip
    assert units & entries.keys()
    write_table(replace(table, entries=entries), path)


@pytest.mark.parametrize(("factor", "state"), [(1.01, "fresh"), (20, "stale")])
def test_a_unit_that_the_front_does_not_use_counts_where_it_became_faster(
    locked: Path, factor: float, state: str
) -> None:
    faster(unused(), factor)
    found = planned()
    assert found.state == state
    assert "moved by 0.0 %" in found.changes[0].text
    assert ("became much faster, such as" in found.changes[0].text) == (state == "stale")


def cut_off() -> None:
    (Path("latency_tables") / f"{BOARD}.json").write_text("{", "utf-8")


def without_a_unit() -> None:
    path = Path("latency_tables") / f"{BOARD}.json"
    table = read_table(path)
    entries = {op: e for op, e in table.entries.items() if "cout=8 h=4" not in op.key}
    write_table(replace(table, entries=entries, cost_model=None), path)


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (cut_off, "not valid JSON", "restore it from git"),
        (without_a_unit, "units are neither .*cout=8 h=4", "edgenas profile"),
    ],
)
def test_a_broken_table_is_refused_and_named(
    locked: Path, spoil: Callable[[], None], message: str, hint: str
) -> None:
    spoil()
    with pytest.raises(SpecError, match=rf"target board: \S*{BOARD}\.json: .*{message}") as caught:
        plan()
    assert hint in caught.value.hint
    for command in ("plan", "check", "run", "validate"):
        assert main(["ci", command]) == 3


def test_without_the_table_before_one_measured_again_counts(locked: Path) -> None:
    remeasure(1.02)
    assert planned().state == "fresh"
    (Path("runs/board/tables") / f"{BOARD}.json").unlink()
    assert planned().stale[0] == "score"
    assert "is not in runs/board-" in planned().changes[0].text


def test_nothing_stale_where_nothing_changed(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = told(capfd, "plan", "--exit-code")
    assert document["schema"] == "edgenas.ci-plan/1"
    assert document["stale"] == []
    assert [t["state"] for t in document["targets"]] == ["fresh", "fresh"]
    assert main(["ci", "plan"]) == 0
    assert capfd.readouterr().out == "board: nothing stale\nboth: nothing stale\n"


def test_settings_that_change_no_result_stale_nothing(locked: Path) -> None:
    change("run.toml", "checkpoint_every = 5", "checkpoint_every = 7")
    change("targets.toml", "max_size_bytes = 100000", "max_size_bytes = 90000\nmin_top1 = 0.01")
    assert not plan().stale


@pytest.mark.parametrize("setting", [("train largest_first", 0.0), ("final batch", 128)])
def test_a_setting_that_edgenas_learns_stales_nothing_at_its_default(
    locked: Path, setting: tuple[str, float]
) -> None:
    entry = read_lock(Path("edgenas.lock"))["board"]
    known = {**entry.facts, "train epochs": 24, "final epochs": 8}
    name, default = setting
    before = replace(entry, facts=known)
    assert changes_between(before, {**known, name: default}) == []
    (change,) = changes_between(before, {**known, name: 2 * default + 1})
    assert change.text.startswith(f"{name} added")
    first = {name: value for name, value in known.items() if not name.startswith(name.split()[0])}
    assert changes_between(replace(entry, facts=first), {**known, name: default})


def test_new_and_gone_targets(locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change("targets.toml", "[target.both]", "[target.pair]")
    document = told(capfd, "plan", "--exit-code", code=5)
    states = {t["target"]: t["state"] for t in document["targets"]}
    assert states == {"board": "fresh", "both": "gone", "pair": "new"}
    assert [s["stage"] for s in document["targets"][2]["stale"]] == [
        "evaluate",
        "score",
        *AFTER_SEARCH,
    ]


def test_a_result_that_is_missing_or_changed_is_made_again(locked: Path) -> None:
    model = next(Path("runs/board/models").glob("*/model.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    found = planned()
    assert found.stale == ("export", "verify")
    assert "was changed: SHA-256" in found.changes[0].text
    model.unlink()
    assert f"{model.name} is missing" in planned().changes[0].text
    assert planned("both").state == "fresh"


def test_a_file_beside_the_models_and_a_forged_lock_are_noticed(locked: Path) -> None:
    script = next(Path("runs/board/models").glob("*/infer.py"))
    before = script.read_bytes()
    script.write_bytes(before + b"x")
    found = planned()
    assert found.stale == ("export", "verify")
    assert "infer.py was changed" in found.changes[0].text
    script.write_bytes(before)
    assert planned().state == "fresh"
    text = Path("edgenas.lock").read_text("utf-8")
    head, rows = text.split("[target.board.files", 1)
    rows = re.sub(r"(?m)^size_bytes = .*$", "size_bytes = 5", rows, count=1)
    Path("edgenas.lock").write_text(f"{head}[target.board.files{rows}", "utf-8")
    found = planned()
    assert found.stale == ("export", "verify")
    assert "by its certificate, locked 5" in found.changes[0].text


def test_the_plan_loads_no_torch(locked: Path) -> None:
    remeasure(1.5)
    code = (
        "import sys\nfrom edgenas.cli.main import main\nassert main(['ci', 'plan']) == 0\n"
        "heavy = 'torch optuna onnxruntime sqlalchemy moocore'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_targets_that_are_wrong_are_told_with_their_name(locked: Path) -> None:
    change("run.toml", 'source = "digits"', 'source = "nowhere/images"')
    with pytest.raises(SpecError, match=r"target board: .*no such images"):
        plan()
    with pytest.raises(UsageError, match="did you mean 'both'"):
        plan(only=["bth"])


def test_a_fleet_of_what_was_one_front_is_another_search(locked: Path) -> None:
    change(
        "targets.toml",
        f'devices = ["{BOARD}", "{OTHER}"]',
        f'devices = ["{BOARD}", "{OTHER}"]\nfleet = 2\nbounds = ["latency_ms <= 0.03"]',
    )
    found = planned("both")
    assert found.stale == AFTER_SEARCH
    assert "search fleet added" in [change.text for change in found.changes]
    assert (found.begins, found.share) == ("known", 1.0)


def test_this_machine_is_another_device_everywhere_and_stales_nothing(locked: Path) -> None:
    """Its table is made where the search runs, unless one by its name is kept."""
    local = "local-onnxruntime-fp32-t1"
    change(
        "targets.toml", "[target.board]", f'[target.here]\ndevices = ["{local}"]\n[target.board]'
    )
    facts = planned("here").facts
    assert facts[f"device {local}"] == facts[f"table {local}"] == "of the machine that searches"


def test_both_tables_of_a_mixed_format_count(locked: Path) -> None:
    device = "amd-epyc-f25m1-avx2-onnxruntime-int8-t1"
    formats = 'formats = ["onnx", "onnx-mixed", "tflite-mixed"]'
    new = f'[target.here]\ndevices = ["{device}"]\n{formats}\n[target.board]'
    change("targets.toml", "[target.board]", new)
    found = planned("here").facts
    other = table_file(load_device(device.replace("int8", "fp32"))).path
    told = f"loses at most 0.002, table {other.stem} {sha256_file(other)[:12]}"
    assert found["format onnx-mixed"] == told
    assert found["format tflite-mixed"] == "loses at most 0.002", "no device of it has LiteRT"
    assert found["format onnx"] is True


def test_images_in_a_folder_are_told_by_names_sizes_and_contents(tmp_path: Path) -> None:
    from edgenas.ci import facts

    folder = tmp_path / "photos"
    (folder / "cat").mkdir(parents=True)
    picture = folder / "cat" / "a.png"
    picture.write_bytes(b"123")
    first = facts.data_text(str(folder))
    assert first.startswith("photos, 1 files by names, sizes and contents, ")
    picture.write_bytes(b"124")
    second = facts.data_text(str(folder))
    assert second != first
    picture.rename(folder / "cat" / "b.png")
    assert facts.data_text(str(folder)) not in (first, second)
    (folder / "cat" / ".hidden").write_bytes(b"")
    (folder / "cat" / "loop").symlink_to(folder)
    assert facts.data_text(str(folder)).startswith("photos, 1 files")


def test_arrays_are_told_by_their_checksums(tmp_path: Path) -> None:
    import numpy as np

    from edgenas.ci import facts

    path = tmp_path / "set.npz"
    np.savez(path, images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    first = facts.data_text(str(path))
    np.savez(path, images=np.ones((4, 8, 8), np.uint8), labels=np.arange(4))
    assert facts.data_text(str(path)) != first
    path.write_bytes(b"no archive")
    with pytest.raises(SpecError, match="damaged"):
        facts.data_text(str(path))
