"""Bad inputs: each gets a message that names what is wrong, and the documented exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.cli.main import main
from edgenas.errors import ExportError
from edgenas.testing.fakes import INVENTED_DEVICE

SEARCH = ["search", "run.toml", "--quiet"]
CHECKPOINT = Path("runs/tiny/supernet/supernet.safetensors")
TABLE = Path("latency_tables") / f"{INVENTED_DEVICE}.json"


def replaced(old: str, new: str, path: str = "run.toml") -> Callable[[], None]:
    def spoil() -> None:
        text = Path(path).read_text("utf-8")
        assert old in text
        Path(path).write_text(text.replace(old, new, 1), "utf-8")

    return spoil


def written(path: str | Path, text: str) -> Callable[[], None]:
    return lambda: (Path(path).write_text(text, "utf-8"), None)[1]


def cut(path: Path) -> Callable[[], None]:
    return lambda: (path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), None)[1]


def flipped(path: Path) -> Callable[[], None]:
    def spoil() -> None:
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)

    return spoil


def table_value(change: Callable[[dict[str, object]], None]) -> Callable[[], None]:
    """The table with its first entry changed, NaN and all."""

    def spoil() -> None:
        table = json.loads(TABLE.read_text("utf-8"))
        change(next(iter(table["entries"].values())))
        TABLE.write_text(json.dumps(table), "utf-8")

    return spoil


def images(**classes: int) -> Callable[[], None]:
    """A folder `photos` with so many images a class; it becomes the run's source."""

    def make() -> None:
        from PIL import Image

        for name, n in classes.items():
            folder = Path("photos") / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (8, 8), (i * 7 % 256, i % 256, 0)).save(folder / f"{i}.png")
        replaced('source = "digits"', 'source = "photos"')()

    return make


def broken_images() -> None:
    images(cat=20, dog=20)()
    Path("photos/cat/3.png").write_bytes(b"no image")


def broken(path: str) -> Callable[[], None]:
    return lambda: (Path(path).write_bytes(b"no image"), None)[1]


def unlabelled(folder: str, source: str = "digits") -> Callable[[], None]:
    """The run scores by agreement on the images of `folder`; its own source is the digits."""
    return both(
        replaced("max top1", "max agreement"),
        replaced(f'source = "{source}"', 'source = "digits"'),
        replaced("trials = 4", f'trials = 4\nunlabelled = "{folder}"'),
    )


def npz_of(**arrays: tuple[int, ...]) -> Callable[[], None]:
    def make() -> None:
        import numpy as np

        np.savez("data.npz", **{k: np.zeros(shape, np.uint8) for k, shape in arrays.items()})
        replaced('source = "digits"', 'source = "data.npz"')()

    return make


def both(*steps: Callable[[], None]) -> Callable[[], None]:
    def all_of_them() -> None:
        for step in steps:
            step()

    return all_of_them


def other_classes() -> None:
    path = CHECKPOINT.with_suffix(".json")
    sidecar = json.loads(path.read_text("utf-8"))
    sidecar["data"]["classes"][3] = "bird"
    path.write_text(json.dumps(sidecar), "utf-8")
    replaced("[search]", f'[supernet]\ncheckpoint = "{CHECKPOINT}"\n\n[search]')()


BOUND = replaced('"min latency_ms"', '"min latency_ms <= 0.001"')

# what is spoilt, the command, the exit code, fragments of the message
BAD_INPUTS = {
    "run file: no TOML": (written("run.toml", "seed = "), SEARCH, 3, ["run.toml: Invalid value"]),
    "run file: missing": (None, ["search", "none.toml"], 3, ["none.toml"]),
    "run file: unknown key": (
        replaced("trials =", "trails ="),
        SEARCH,
        3,
        ["search.trails: unknown key", "did you mean 'trials'"],
    ),
    "run file: two problems at once": (
        both(replaced("trials = 4", "trials = -4"), replaced("top = 1", "top = 0")),
        SEARCH,
        3,
        ["search.trials", "export.top"],
    ),
    "run file: a key twice": (replaced("[data]", "[data]\n[data]"), SEARCH, 3, ["run.toml"]),
    "an objective that seeks the worse": (
        replaced("min latency_ms", "max latency_ms"),
        SEARCH,
        3,
        ["run.toml: objective 'max latency_ms'", "write 'min latency_ms'"],
    ),
    "a share in percent": (
        replaced("max top1", "max top1 >= 90"),
        SEARCH,
        3,
        ["top1 lies between 0 and 1", "90 % is 0.9"],
    ),
    "a bound that no cost can meet": (
        replaced("min latency_ms", "min latency_ms <= -1"),
        SEARCH,
        3,
        ["no network has latency_ms of 0 or less"],
    ),
    "run file: no schema": (
        lambda: Path("run.toml").write_text(
            "\n".join(Path("run.toml").read_text("utf-8").splitlines()[1:])
        ),
        SEARCH,
        3,
        ['schema: missing; schema = "edgenas.run/1"'],
    ),
    "run file: another schema": (
        replaced("run/1", "run/9"),
        SEARCH,
        3,
        ["'edgenas.run/9'", "'edgenas.run/1' is expected"],
    ),
    "run file: unknown device": (
        replaced("invented-board-litert", "invented-bord-litert"),
        SEARCH,
        3,
        ["search.devices", "invented-board-litert-int8-t1"],
    ),
    "run file: unknown metric": (
        replaced("min latency_ms", "min latncy_ms"),
        SEARCH,
        3,
        ["latncy_ms", "did you mean 'latency_ms'"],
    ),
    "run file: a metric nearly named": (
        replaced("max top1", "max top1_int4"),
        SEARCH,
        3,
        ["top1_int4", "did you mean 'top1_int8'"],
    ),
    "unlabelled: not asked for": (
        replaced("trials = 4", 'trials = 4\nunlabelled = "heap"'),
        SEARCH,
        3,
        ["search.unlabelled", "'agreement'", "max agreement"],
    ),
    "unlabelled: no such folder": (unlabelled("heap"), SEARCH, 3, ["heap: there is no such"]),
    "unlabelled: a folder without images": (
        both(lambda: Path("heap").mkdir(), unlabelled("heap")),
        SEARCH,
        3,
        ["heap: no images in it", "add images"],
    ),
    "unlabelled: broken images": (
        both(images(heap=5), broken("photos/heap/3.png"), unlabelled("photos/heap", "photos")),
        SEARCH,
        3,
        ["3.png (not an image)", "more than 1 % of 5", "remove or replace"],
    ),
    "run file: unknown strategy": (
        replaced("trials = 4", 'trials = 4\nstrategy = "nsga3x"'),
        SEARCH,
        3,
        ["nsga3x"],
    ),
    "run file: unknown format": (
        replaced('"onnx"', '"onxx"'),
        SEARCH,
        3,
        ["export.formats[0]", "did you mean 'onnx'"],
    ),
    "run file: unknown space": (
        replaced('"mobile/1"', '"mobile/7"'),
        SEARCH,
        3,
        ["mobile/7", "did you mean 'mobile/1'"],
    ),
    "run file: a space that cannot be": (
        replaced("[3]", "[4]"),
        SEARCH,
        3,
        ["kernels", "odd"],
    ),
    "run name: two dots": (None, [*SEARCH, "--name", ".."], 2, ["run name '..'"]),
    "run name: a separator": (None, [*SEARCH, "--name", "a/b"], 2, ["run name 'a/b'"]),
    "run name: reserved": (None, [*SEARCH, "--name", "nul"], 2, ["run name 'nul'"]),
    "option: not a number": (None, [*SEARCH, "--minutes", "nan"], 2, ["--minutes"]),
    "option: negative": (None, [*SEARCH, "--trials", "-1"], 2, ["--trials"]),
    "option: unknown": (None, [*SEARCH, "--trails", "9"], 2, ["--trails"]),
    "device: unknown": (
        None,
        ["devices", "show", "local-litert-int9-t1"],
        2,
        ["local-litert-int8-t1"],
    ),
    "device: a path": (None, ["devices", "show", "../../etc/passwd"], 2, ["../../etc/passwd"]),
    "data: unknown set": (
        replaced('"digits"', '"digitz"'),
        SEARCH,
        3,
        ["digitz", "did you mean 'digits'"],
    ),
    "data: missing folder": (replaced('"digits"', '"./nowhere"'), SEARCH, 3, ["nowhere"]),
    "data: empty class": (images(cat=20, dog=0), SEARCH, 3, ["dog"]),
    "data: one class": (images(cat=20), SEARCH, 3, ["cat"]),
    "data: corrupt image": (broken_images, SEARCH, 3, ["3.png"]),
    "data: wrong shape": (npz_of(images=(20, 8), labels=(20,)), SEARCH, 3, ["data.npz", "shape"]),
    "checkpoint: truncated": (cut(CHECKPOINT), SEARCH, 3, ["supernet.safetensors", "SHA-256"]),
    "checkpoint: a bit flipped": (flipped(CHECKPOINT), SEARCH, 3, ["supernet.safetensors"]),
    "checkpoint: missing": (
        replaced("[search]", '[supernet]\ncheckpoint = "none.safetensors"\n\n[search]'),
        SEARCH,
        3,
        ["none"],
    ),
    "checkpoint: of other classes": (other_classes, SEARCH, 3, ["bird"]),
    "table: NaN": (
        table_value(lambda e: e.update(latency_ms=float("nan"))),
        SEARCH,
        3,
        [TABLE.name, "NaN"],
    ),
    "table: negative": (
        table_value(lambda e: e.update(latency_ms=-1.0)),
        SEARCH,
        3,
        [TABLE.name, "latency_ms"],
    ),
    "table: a thousand times off": (
        table_value(lambda e: e.update({k: v * 1000 for k, v in e.items() if k != "n"})),
        SEARCH,
        3,
        [TABLE.name, "implausible"],
    ),
    "table: truncated": (cut(TABLE), SEARCH, 3, [TABLE.name, "line"]),
    "table: a web page": (written(TABLE, "<html>404</html>"), SEARCH, 3, [TABLE.name, "JSON"]),
    "table: newer": (
        replaced("edgenas.table/1", "edgenas.table/2", str(TABLE)),
        SEARCH,
        3,
        ["newer", "upgrade"],
    ),
    "table: deeply nested": (written(TABLE, "[" * 100_000), SEARCH, 3, [TABLE.name, "deep"]),
    "table: missing": (lambda: TABLE.unlink(), SEARCH, 3, ["edgenas profile"]),
    "bound: infeasible": (BOUND, SEARCH, 7, ["latency_ms <= 0.001", "nearest"]),
    "predict: not of this space": (
        None,
        ["predict", INVENTED_DEVICE, "mobile/1 s1.width=999", "--run", "run.toml"],
        3,
        ["s1.width=999"],
    ),
    "report: no such run": (None, ["report", "nothing"], 2, ["nothing"]),
}


@pytest.mark.long
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input(name: str, clean: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spoil, argv, code, fragments = BAD_INPUTS[name]
    if spoil is not None:
        spoil()
    found = main(argv)
    shown = capfd.readouterr()
    assert found == code, shown.err
    for fragment in fragments:
        assert fragment in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert not (clean / "runs" / "tiny" / "front.json").exists()


TRAINED = Path("runs/tiny/supernet")
NEVER_TRAINED = {
    "a warm start from nowhere": (
        None,
        ["--warm-start", "nothere"],
        3,
        ["search.warm_start", "nothere"],
    ),
    "a network to begin with that is none": (
        replaced("trials = 4", 'trials = 4\nbegin_with = ["mobile/1 x=1"]'),
        [],
        3,
        ["search.begin_with: ", "x=1 is no choice"],
    ),
    "no trials and nothing known": (
        replaced("trials = 4", "trials = 0"),
        [],
        3,
        ["search.trials is 0", "set trials"],
    ),
    "no database": (None, ["--storage", "sqlite:///x.db"], 2, ["no URL of a PostgreSQL database"]),
    "an empty database": (None, ["--storage", ""], 2, ["no URL of a PostgreSQL database"]),
    "a database that does not answer": (
        None,
        ["--storage", "postgresql://nobody@127.0.0.1:9/none"],
        6,
        ["cannot store the search in postgresql://nobody@127.0.0.1:9/none"],
    ),
    "to go on and to begin anew": (None, ["--resume", "--fresh"], 2, ["give one of them"]),
}


@pytest.mark.parametrize("name", NEVER_TRAINED)
def test_refused_before_anything_is_trained(
    name: str, clean: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(TRAINED)
    spoil, argv, code, fragments = NEVER_TRAINED[name]
    if spoil is not None:
        spoil()
    found = main([*SEARCH, *argv])
    shown = capfd.readouterr()
    assert found == code, shown.err
    for fragment in fragments:
        assert fragment in shown.err
    assert not TRAINED.exists()


WORSE = {
    "an unknown strategy": (None, ["--strategy", "nsga4"], 3, ["search.strategy: ", "'nsga3'"]),
    "a warm start from nowhere": (None, ["--warm-start", "nothere"], 3, ["nothere"]),
    "a database": (None, ["--storage", "postgresql://a@db/nas"], 2, ["--name NEW begins another"]),
    "no trials": (replaced("trials = 4", "trials = 0"), [], 3, ["search.trials is 0"]),
    "a bound that none meets": (BOUND, [], 7, ["the nearest is mobile/1", "relax"]),
    "a bound that none meets, of a supernet from elsewhere": (
        both(
            lambda: (shutil.copytree(TRAINED, "elsewhere"), None)[1],
            replaced(
                "[search]", '[supernet]\ncheckpoint = "elsewhere/supernet.safetensors"\n\n[search]'
            ),
            BOUND,
        ),
        [],
        7,
        ["the nearest is mobile/1"],
    ),
    "an unknown device": (
        replaced(INVENTED_DEVICE, "nodev"),
        [],
        3,
        ["run.toml: search.devices: no device 'nodev'"],
    ),
}


@pytest.mark.parametrize("name", WORSE)
def test_a_finished_run_is_deleted_by_nothing_that_is_refused(
    name: str, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(Path("runs/tiny"))
    spoil, argv, code, fragments = WORSE[name]
    if spoil is not None:
        spoil()
    assert main([*SEARCH, "--fresh", *argv]) == code
    shown = capfd.readouterr().err
    for fragment in fragments:
        assert fragment in shown
    assert contents(Path("runs/tiny")) == before


def contents(folder: Path) -> dict[str, bytes]:
    """What a reader finds there: hidden files are locks, and what is not finished."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in found
        if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    }


def test_a_search_begun_anew_takes_the_place_of_the_one_before(work: Path) -> None:
    run = Path("runs/tiny")
    front = (run / "front.json").read_bytes()
    (run / "tables" / f"{INVENTED_DEVICE}.json").write_text("{}")  # it is made anew, too
    (run / "left.txt").write_text("by the one before")
    assert main([*SEARCH, "--fresh"]) == 0
    assert (run / "front.json").read_bytes() == front, "the same seed"
    assert not (run / "left.txt").exists()
    assert main(["verify", "runs/tiny", "--quiet"]) == 0


FINISHED = {
    "a second search": (None, SEARCH, 2, ["--resume"]),
    "a supernet of another seed": (
        lambda: Path("run.toml").write_text("seed = 7\n" + Path("run.toml").read_text("utf-8")),
        [*SEARCH, "--resume"],
        3,
        ["other settings"],
    ),
    "a study of another strategy": (None, [*SEARCH, "--resume", "--strategy", "tpe"], 3, ["tpe"]),
    "a tampered model": (
        lambda: flipped(next(Path("runs/tiny/models").glob("*/model.onnx")))(),
        ["verify", "runs/tiny"],
        3,
        ["model.onnx", "SHA-256"],
    ),
    "a truncated model": (
        lambda: cut(next(Path("runs/tiny/models").glob("*/model.onnx")))(),
        ["verify", "runs/tiny"],
        3,
        ["model.onnx"],
    ),
    "a tampered certificate": (
        lambda: flipped(next(Path("runs/tiny/models").glob("*/export.json")))(),
        ["verify", "runs/tiny"],
        3,
        ["export.json"],
    ),
    "nothing exported": (None, ["verify", "latency_tables"], 2, ["nothing exported"]),
    "an unknown digest": (None, ["export", "tiny", "0123456789ab"], 2, ["0123456789ab"]),
    "an unknown format": (
        None,
        ["export", "tiny", "smallest", "--format", "tflit"],
        2,
        ["did you mean 'tflite'"],
    ),
    "a damaged front": (
        cut(Path("runs/tiny/front.json")),
        ["report", "tiny"],
        3,
        ["front.json"],
    ),
}


@pytest.mark.parametrize("name", FINISHED)
def test_bad_input_to_a_finished_run(
    name: str, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, argv, code, fragments = FINISHED[name]
    if spoil is not None:
        spoil()
    found = main(argv)
    shown = capfd.readouterr()
    assert found == code, shown.err
    for fragment in fragments:
        assert fragment in shown.err
    assert "Traceback" not in shown.err


def test_full_disk_leaves_the_old_files_and_no_temporary_ones(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in Path("runs/tiny").rglob("*") if p.is_file()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", "tiny"]) == 6
    assert "No space left" in capfd.readouterr().err
    after = {p: p.read_bytes() for p in Path("runs/tiny").rglob("*") if p.is_file()}
    assert {p for p in after if p.name != ".lock"} == {p for p in before if p.name != ".lock"}
    assert all(after[p] == before[p] for p in before if p.name != ".lock")


def test_a_folder_that_cannot_be_written(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make = Path.mkdir

    def refused(self: Path, *args: object, **kwargs: object) -> None:
        if "elsewhere" in self.parts:  # as root nothing is read-only, so the system's answer is
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        make(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refused)
    assert main([*SEARCH, "--runs", "elsewhere"]) == 6
    assert "Read-only file system" in capfd.readouterr().err


def test_two_processes_in_one_folder(clean: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = """
import pathlib, sys
from edgenas.pipeline.runs import locked
with locked(pathlib.Path("runs/tiny")):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert main(SEARCH) == 6
        assert f"process {holder.pid} on " in capfd.readouterr().err
        holder.communicate(timeout=30)
    assert holder.returncode == 0
    assert not Path("runs/tiny/.owner.json").exists()


def test_a_stale_lock_is_taken_over(clean: Path) -> None:
    from edgenas.pipeline.runs import locked

    folder = Path("runs/tiny")
    (folder / ".lock").touch()
    (folder / ".owner.json").write_text('{"pid": 1, "host": "gone"}', "utf-8")
    with locked(folder):
        assert json.loads((folder / ".owner.json").read_text("utf-8"))["pid"] == os.getpid()


@pytest.mark.long
def test_a_format_that_cannot_be_written_does_not_stop_the_others(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ExportError("litert-torch is not installed", hint='pip install "edgenas[tflite]"')

    monkeypatch.setattr("edgenas.export.certified.run_tflite", missing)
    replaced('["onnx"]', '["onnx", "tflite"]')()
    assert main([*SEARCH, "--json"]) == 8
    document = json.loads(capfd.readouterr().out)
    assert [(e["format"], e["verified"]) for e in document["exports"]] == [("onnx", True)]
    assert "litert-torch is not installed" in document["failures"][0]
    assert (clean / "runs/tiny/report.html").is_file()


@pytest.mark.long
def test_a_missed_gate_is_reported_after_all_else_is_written(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from edgenas.export import certified

    compare = certified.verify_model

    def wrong(path: Path, **arguments: object) -> object:
        logits = arguments["reference_logits"]
        return compare(path, **{**arguments, "reference_logits": -logits})  # type: ignore[operator, arg-type]

    monkeypatch.setattr(certified, "verify_model", wrong)
    assert main([*SEARCH, "--json"]) == 5
    document = json.loads(capfd.readouterr().out)
    assert document["exports"][0]["verified"] is False
    assert document["exports"][0]["path"].endswith(".rejected")
    assert document["failures"]
    for name in ("report.html", "result.json", "manifest.json"):
        assert (clean / "runs" / "tiny" / name).is_file()


def test_a_path_with_blanks_letters_and_a_newline(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "päth with\nnewline and 'quotes'"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    assert main([*SEARCH, "--resume", "--json", "--runs", str(folder / "runs")]) == 0
    assert json.load(io.StringIO(capfd.readouterr().out))["run"] == str(folder / "runs" / "tiny")
