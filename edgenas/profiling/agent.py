"""Times model files on a device. One file: Python 3.9 or later, numpy and the runtime.

    python agent.py JOB [--done FILE] [--out FILE]

JOB is a JSON object (see `Job` for its keys). Every result is one line on stdout, flushed as it
comes: eight hexadecimal digits (CRC-32 of the rest), a space, a JSON object. Whatever else a
runtime prints is therefore told apart. With `--done`, rounds that the file holds are not measured
again; with `--out` the lines are appended to that file too, and it counts as done.

Rules, in the order in which they bite: creation and first inference are recorded apart; warm-up
until two successive windows agree within 2 %; rounds over all models in random order; within a
round each model runs for its share of time, in slices of a millisecond, and only those slices count
that begin and end while a bit of fixed arithmetic takes as long as it ever did at its best: on a
virtual machine a neighbour on the same core makes everything take up to half as long again, and
nothing else shows it; a visit in which the process had less than 0.9 of the processor time it
should have had is repeated, a bounded number of times; a model whose best round no other round
confirms within 3 % gets further rounds, up to as many again; a canary model is timed again and
again, and when it drifted by more than 5 % what came since it was last good is repeated after a
pause.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import os
import platform
import random
import sys
import time
import zlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

JOB_SCHEMA = "edgenas.job/1"
AGREE = 0.02  # successive warm-up windows
CPU_SHARE = 0.9  # of the processor time that the threads should get
DRIFT = 0.05  # of the canary
MIN_ROUNDS = 3  # whatever time is given
CONFIRMED = 0.03  # a model's best round median by its second best
QUIET = 0.08  # the pace of a quiet moment by the best pace
SLICE_S = 0.001
CALM = 3  # samples in quiet moments that a visit needs
ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({kind}{n})": f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)},
}
clock = time.perf_counter_ns


def encode(record: dict[str, Any]) -> str:
    """One line: CRC-32, space, JSON."""
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def decode(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The records among `lines`; whatever is no whole record is left out."""
    records = []
    for line in lines:
        head, _, text = line.rstrip("\n").partition(" ")
        if len(head) != 8 or not text.startswith("{"):
            continue
        try:
            if int(head, 16) == zlib.crc32(text.encode()):
                records.append(json.loads(text))
        except ValueError:
            continue
    return records


def finished(records: Iterable[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """The visit that counts for each (key, round), after repeats and withdrawals.

    Of several visits that of the lowest median counts: disturbance only ever adds time.
    """
    visits: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        if record["type"] == "void":
            for key in record["keys"]:
                visits.pop((key, record["round"]), None)
        elif record["type"] == "visit":
            place = record["key"], record["round"]
            before = visits.get(place)
            if before and (before["contended"], before["median_ms"]) < (
                record["contended"],
                record["median_ms"],
            ):
                visits[place] = {**before, "final": record["final"]}
            else:
                visits[place] = record
    return {place: record for place, record in visits.items() if record["final"]}


def of_version(records: Iterable[dict[str, Any]], version: str) -> list[dict[str, Any]]:
    """What came after the last start under another version of the runtime: the rest is void."""
    kept: list[dict[str, Any]] = []
    same = True
    for record in records:
        if record["type"] == "start":
            same = record["runtime_version"] == version
        if same:
            kept.append(record)
        else:
            kept = []
    return kept


# --- runtimes ---------------------------------------------------------------------------------


def litert_interpreter() -> tuple[Any, str]:
    """The class `Interpreter` of the first TFLite runtime that works here, and its version."""
    import numpy as np

    tried = []
    try:
        from ai_edge_litert import interpreter

        return interpreter.Interpreter, _version("ai-edge-litert")
    except ImportError as error:
        tried.append(str(error))
    if int(np.__version__.split(".")[0]) < 2:  # it imports under numpy 2, then fails to construct
        try:
            from tflite_runtime import interpreter as old

            return old.Interpreter, _version("tflite-runtime")
        except ImportError as error:
            tried.append(str(error))
    try:
        from tensorflow import lite

        return lite.Interpreter, _version("tensorflow")
    except ImportError as error:
        tried.append(str(error))
    raise ImportError(
        "no TFLite runtime: pip install ai-edge-litert, or on old boards "
        f"pip install 'numpy<2' tflite-runtime ({'; '.join(tried)})"
    )


def runtime_version(runtime: str) -> str:
    """The version of the runtime that will be used."""
    if runtime == "litert":
        return litert_interpreter()[1]
    import onnxruntime

    return str(onnxruntime.__version__)


def open_model(
    path: str, *, runtime: str, threads: int, rng: Any
) -> tuple[Callable[[], object], str]:
    """A function that runs the model once on fixed random inputs, and the first input's type."""
    return (_open_litert if runtime == "litert" else _open_onnx)(path, threads, rng)


def _open_onnx(path: str, threads: int, rng: Any) -> tuple[Callable[[], object], str]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {}
    for node in session.get_inputs():
        if node.type not in ONNX_TYPES:
            raise ValueError(
                f"input {node.name!r} is {node.type}; random values can be made for "
                + ", ".join(sorted(ONNX_TYPES))
            )
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in node.shape]
        feed[node.name] = _random(shape, ONNX_TYPES[node.type], rng)
    names = [node.name for node in session.get_outputs()]
    first = str(next(iter(feed.values())).dtype)
    return (lambda: session.run(names, feed)), first


def _open_litert(path: str, threads: int, rng: Any) -> tuple[Callable[[], object], str]:
    make, _ = litert_interpreter()
    interpreter = make(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    for detail in details:
        value = _random([int(n) for n in detail["shape"]], str(detail["dtype"].__name__), rng)
        interpreter.set_tensor(detail["index"], value)
    return interpreter.invoke, str(details[0]["dtype"].__name__)


def _random(shape: list[int], dtype: str, rng: Any) -> Any:
    import numpy as np

    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    if dtype in ("int8", "uint8"):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


# --- the machine ------------------------------------------------------------------------------


def timer_resolution_ns() -> int:
    """The smallest step that the timer shows between two calls."""
    steps = []
    for _ in range(1000):
        start = clock()
        end = clock()
        if end > start:
            steps.append(end - start)
    return min(steps) if steps else 1


def conditions() -> dict[str, Any]:
    """What can be read about the machine's state; what cannot is left out."""
    found: dict[str, Any] = {"machine": platform.machine(), "kernel": platform.release()}
    found["system"], found["python"] = platform.system(), platform.python_version()
    cpu = "/sys/devices/system/cpu/cpu0/cpufreq/"
    for name, path in (
        ("governor", cpu + "scaling_governor"),
        ("frequency_khz", cpu + "scaling_cur_freq"),
        ("frequency_max_khz", cpu + "scaling_max_freq"),
        ("product", "/sys/class/dmi/id/product_name"),
        ("board", "/proc/device-tree/model"),
    ):
        text = _read(path).strip("\0\n ")
        if text:
            found[name] = int(text) if text.isdigit() else text
    info = _read("/proc/cpuinfo")
    for line in info.splitlines():
        if line.startswith("cpu MHz") and "frequency_khz" not in found:
            found["frequency_khz"] = round(1000 * float(line.partition(":")[2]))
    found["virtualised"] = " hypervisor" in info
    zones = []
    for i in range(32):
        text = _read(f"/sys/class/thermal/thermal_zone{i}/temp").strip()
        if text.lstrip("-").isdigit():
            zones.append(int(text) / 1000)
    if zones:
        found["temperature_c"] = max(zones)
    if hasattr(os, "getloadavg"):
        found["load_1min"] = round(os.getloadavg()[0], 2)
    found["processors"] = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        found["affinity"] = sorted(os.sched_getaffinity(0))
    return found


def memory_low(reserve: float = 0.15) -> bool:
    """Whether less than this share of memory is left; False where it cannot be told."""
    sizes = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = rest.split()[0] if rest.split() else "0"
    total, left = int(sizes.get("MemTotal", 0)), int(sizes.get("MemAvailable", 0))
    return bool(total) and left < reserve * total


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - one file
            return file.read(200_000)
    except OSError:
        return ""


# --- timing -----------------------------------------------------------------------------------


def quantile(ordered: list[float], q: float) -> float:
    """The q-quantile of ascending values, linear between neighbours."""
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def run_many(invoke: Callable[[], object], runs: int, seconds: float, batch: int) -> list[float]:
    """Times per inference in ns, each the mean of `batch` runs; at least `runs`, for `seconds`."""
    samples: list[float] = []
    until = clock() + int(seconds * 1e9)
    while True:
        start = clock()
        for _ in range(batch):
            invoke()
        end = clock()
        samples.append((end - start) / batch)
        if len(samples) >= runs and end >= until:
            return samples


def warm_up(invoke: Callable[[], object], runs: int, seconds: float, batch: int) -> bool:
    """Runs until two successive windows agree; False where they did not within four times that."""
    start, total, before = clock(), 0, 0.0
    while True:
        window = sorted(run_many(invoke, 5, seconds / 4, batch))
        total += len(window)
        median = quantile(window, 0.5)
        elapsed = (clock() - start) / 1e9
        enough = total >= runs and elapsed >= seconds
        if enough and before and abs(median / before - 1) <= AGREE:
            return True
        if enough and elapsed >= 4 * seconds:
            return False
        before = median


class Pace:
    """Tells whether the processor runs at its full speed at this moment, by fixed arithmetic."""

    def __init__(self) -> None:
        import numpy as np

        self._matrix, self._out = np.ones((2, 48, 48), np.float32)
        self._repeats = 1
        self.best_ns = 0
        while self._once() < max(20_000, 100 * timer_resolution_ns()):
            self._repeats *= 2
        self.best_ns = self._twice()

    def quiet(self) -> bool:
        """Whether it takes as long now as it did at its best."""
        ns = self._twice()
        self.best_ns = min(self.best_ns, ns)
        return ns <= (1 + QUIET) * self.best_ns

    def _twice(self) -> int:
        return min(self._once(), self._once())  # the system's timer disturbs one at most

    def _once(self) -> int:
        multiply = self._matrix.dot
        start = clock()
        for _ in range(self._repeats):
            multiply(self._matrix, self._out)
        return clock() - start


class Job:
    """A job and what was already done of it.

    Keys: `schema`, `nonce`, `runtime`, `threads`, `models` (key to path), `seed`, `rounds`,
    `extra_rounds`, `seconds` and `runs` (of each model, over all rounds), `warmup_s`,
    `warmup_runs`, `patience` (how many times its share of time a visit may wait for quiet
    moments), `retries` (of a visit without the processor), `canary` (a key or null),
    `canary_every_s`, `cool_s`, `on_drift` ("keep", "stop", or "auto": stop unless virtualised,
    where neighbours come and go), `affinity` (list, empty: none), `budget_s` (null: none);
    in a kit `names` (key to what the host calls the model), which the results repeat.
    """

    def __init__(
        self, job: dict[str, Any], done: list[dict[str, Any]], emit: Callable[[Any], None]
    ):
        import numpy as np

        self.job, self.records = job, list(done)

        def record(line: dict[str, Any]) -> None:
            self.records.append(line)
            emit(line)

        self.emit = record
        self.models: dict[str, str] = job["models"]
        self.rng = np.random.default_rng(job["seed"])
        self.step_ns = timer_resolution_ns()
        self.pace = Pace()
        self.opened: OrderedDict[str, tuple[Callable[[], object], int]] = OrderedDict()
        self.done = finished(done)
        self.stops = job["on_drift"] == "stop" or (
            job["on_drift"] == "auto" and not conditions()["virtualised"]
        )
        self.known = {r["key"] for r in done if r["type"] == "model"}
        self.failed = {r["key"] for r in done if r["type"] == "failed"}
        self.canary_ms = [r["median_ms"] for r in done if r["type"] == "canary"]
        self.repeats = sum(r["type"] == "void" for r in done)
        self.retried = sum(r["type"] == "visit" and not r["final"] for r in done)
        self.visited = 0
        """Visits of this process, repeated ones included."""
        self.best_share: dict[str, float] = {}
        self._crashed(done)

    def _crashed(self, done: list[dict[str, Any]]) -> None:
        """A model whose opening killed two processes is given up."""
        started: dict[str, int] = {}
        for record in done:
            if record["type"] == "opening":
                started[record["key"]] = started.get(record["key"], 0) + 1
            elif record["type"] == "opened":
                started[record["key"]] = 0
        for key, times in started.items():
            if times >= 2 and key not in self.failed:
                self._fail(key, "the process died twice while it was opened")

    def run(self) -> bool:
        """Measures all that is missing; whether that is everything."""
        start, rounds = clock(), self.job["rounds"]
        for number in range(rounds + self.job["extra_rounds"]):
            keys = list(self.models) if number < rounds else self._unconfirmed()
            left = [k for k in keys if k not in self.failed and (k, number) not in self.done]
            if number >= min(MIN_ROUNDS, rounds) and not self._affordable(len(left), start):
                return bool(number >= rounds)
            if left and not self._round(number, left):
                return False
        return True

    def _affordable(self, n_visits: int, start: int) -> bool:
        """Whether the budget has room for so many more, going by the visits since `start`."""
        budget, spent = self.job["budget_s"], (clock() - start) / 1e9
        return not budget or spent * (1 + n_visits / max(1, self.visited)) <= budget

    def _unconfirmed(self) -> list[str]:
        """Models of whose rounds the best stands alone: it may still not be undisturbed."""
        rounds: dict[str, list[tuple[bool, float]]] = {}
        for (key, _), record in finished(self.records).items():
            rounds.setdefault(key, []).append((record["contended"], record["median_ms"]))
        found = []
        for key, values in rounds.items():
            best = sorted(values)[:2]
            calm = len(best) == 2 and not best[1][0]
            if key in self.models and not (calm and best[1][1] <= (1 + CONFIRMED) * best[0][1]):
                found.append(key)
        return sorted(found)

    def _round(self, number: int, left: list[str]) -> bool:
        random.Random(f"{self.job['seed']} {number}").shuffle(left)
        if not self._canary_is_good():
            self._cool()
        queue, checked = deque(left), clock()
        tries: dict[str, int] = {}
        since: list[str] = []
        while queue:
            key = queue.popleft()
            tries[key] = tries.get(key, 0) + 1
            outcome = self._visit(key, number, last=tries[key] > self.job["retries"])
            if outcome is None:
                continue
            if outcome:
                since.append(key)
            else:
                queue.append(key)  # other models first: a busy moment passes
            due = (clock() - checked) / 1e9 > self.job["canary_every_s"]
            if due or not queue:
                checked = clock()
                if not self._canary_is_good():
                    if self.repeats < 3:
                        self.repeats += 1
                        self._cool()
                        self.emit({"type": "void", "keys": since, "round": number})
                        queue.extend(since)
                    elif self.stops:
                        return False
                since = []
        return True

    def _visit(self, key: str, number: int, *, last: bool) -> bool | None:
        """Times one model in one round; False: contended, to be repeated; None: it failed."""
        model = self._open(key)
        if model is None:
            return None
        record = self._time(key, *model)
        self.visited += 1
        budget = self.job["rounds"] * len(self.models)  # at most every visit twice, on average
        # What was not quiet is not repeated at once: the other rounds are at other moments.
        final = last or not record.get("deprived") or self.retried >= budget
        self.retried += not final
        self.emit({"type": "visit", "key": key, "round": number, "final": final, **record})
        return final

    def _time(self, key: str, invoke: Callable[[], object], batch: int) -> dict[str, Any]:
        rounds, threads = self.job["rounds"], self.job["threads"]
        for _ in range(2):
            invoke()  # the caches hold another model's weights
        wall, cpu = clock(), time.process_time_ns()
        everything, calm = self._slices(
            invoke, batch, -(-self.job["runs"] // rounds), self.job["seconds"] / rounds
        )
        share = (time.process_time_ns() - cpu) / max(1, clock() - wall)
        best = self.best_share[key] = max(self.best_share.get(key, 0.0), share)
        # Several threads rarely fill their processors in a small model: its own best is expected.
        expected = 1.0 if threads == 1 else min(threads, best)
        deprived = share < CPU_SHARE * expected
        enough = len(calm) >= CALM
        ordered = sorted(sample / 1e6 for sample in (calm if enough else everything))
        median = quantile(ordered, 0.5)
        deviations = sorted(abs(x - median) for x in ordered)
        return {
            "n": len(ordered),
            "batch": batch,
            "min_ms": round(ordered[0], 7),
            "median_ms": round(median, 7),
            "p10_ms": round(quantile(ordered, 0.1), 7),
            "p90_ms": round(quantile(ordered, 0.9), 7),
            "spread": round(1.4826 * quantile(deviations, 0.5) / median, 5),
            "cpu_share": round(share, 3),
            "quiet_share": round(len(calm) / len(everything), 3),
            "deprived": deprived,
            "contended": deprived or not enough,
        }

    def _slices(
        self, invoke: Callable[[], object], batch: int, runs: int, seconds: float
    ) -> tuple[list[float], list[float]]:
        """All samples, and those of slices between two quiet moments.

        Ends with `runs` of the latter in `seconds` of their own, or when patience is at its end.
        """
        everything: list[float] = []
        calm: list[float] = []
        calm_s, best, start = 0.0, math.inf, clock()
        quiet = self.pace.quiet()
        while True:
            samples = run_many(invoke, 1, SLICE_S, batch)
            was_quiet, quiet = quiet, self.pace.quiet()
            everything += samples
            if was_quiet and quiet:
                calm += samples
                calm_s += sum(samples) * batch / 1e9
            best = min(best, *samples)
            least = max(seconds, runs * best * batch / 1e9)
            patience = (1 + self.job["patience"]) * least
            if len(calm) >= runs and calm_s >= seconds:
                break
            if len(everything) >= runs and (clock() - start) / 1e9 >= patience:
                break
        return everything, calm

    def _open(self, key: str) -> tuple[Callable[[], object], int] | None:
        if key in self.opened:
            self.opened.move_to_end(key)
            return self.opened[key]
        while self.opened and memory_low():
            self.opened.popitem(last=False)
            gc.collect()
        self.emit({"type": "opening", "key": key})
        try:
            start = clock()
            invoke, dtype = open_model(
                self.models[key],
                runtime=self.job["runtime"],
                threads=self.job["threads"],
                rng=self.rng,
            )
            made = clock()
            invoke()
            first = clock()
            # One sample is at least 100 steps of the timer.
            estimate = sorted(run_many(invoke, 5, 0.0, 1))[2]
            batch = max(1, -(-100 * self.step_ns // max(1, int(estimate))))
            stable = warm_up(invoke, self.job["warmup_runs"], self.job["warmup_s"], batch)
        except Exception as error:  # noqa: BLE001 - any failure of a runtime is this model's
            self._fail(key, f"{type(error).__name__}: {error}"[:500])
            return None
        self.emit({"type": "opened", "key": key})
        if key not in self.known:
            self.known.add(key)
            self.emit(
                {
                    "type": "model",
                    "key": key,
                    "init_ms": round((made - start) / 1e6, 4),
                    "first_ms": round((first - made) / 1e6, 4),
                    "stable": stable,
                    "dtype": dtype,
                }
            )
        self.opened[key] = invoke, batch
        return self.opened[key]

    def _fail(self, key: str, reason: str) -> None:
        self.failed.add(key)
        self.emit({"type": "failed", "key": key, "reason": reason})

    def _canary_is_good(self) -> bool:
        """Times the canary; whether it is within 5 % of the best it ever was."""
        key = self.job["canary"]
        model = self._open(key) if key is not None and key not in self.failed else None
        if model is None:
            return True
        median = min(self._time(key, *model)["median_ms"] for _ in range(3))
        drift = median / min([median, *self.canary_ms]) - 1
        self.canary_ms.append(median)
        self.emit({"type": "canary", "key": key, "median_ms": median, "drift": round(drift, 4)})
        return bool(drift <= DRIFT)

    def _cool(self) -> None:
        time.sleep(self.job["cool_s"])


def bind(affinity: list[int]) -> None:
    """Binds this process to the processors, where the system can.

    Raises:
        ValueError: one of them is not there.
    """
    if not affinity or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, affinity)
        missing = set(affinity) - os.sched_getaffinity(0)  # what is not there is passed over
    except OSError:  # none of them is there
        missing = set(affinity)
    if missing:
        raise ValueError(
            f"affinity: processors {sorted(missing)} are not there or not to be had; "
            f"{os.cpu_count()} are there, from 0"
        )


def main(argv: list[str] | None = None) -> int:
    """Runs a job.

    0: all was measured; 3: drift or the budget ended it; 4: no runtime; 5: no such processor; 6: a
    kit for another version of the runtime.
    """
    parser = argparse.ArgumentParser(description="Times model files on this device.")
    parser.add_argument("job")
    parser.add_argument("--done", help="lines of an earlier run")
    parser.add_argument("--out", help="file to append the lines to; resumed where it exists")
    arguments = parser.parse_args(argv)
    text = _read_all(arguments.job)
    job = json.loads(text)
    if job["schema"] != JOB_SCHEMA:
        print(f"job {arguments.job}: {job['schema']!r} is not {JOB_SCHEMA!r}", file=sys.stderr)
        return 2
    lines: list[str] = []
    for path in (arguments.done, arguments.out):
        if path and os.path.exists(path):  # noqa: PTH110 - one file, no pathlib needed
            lines += _read_all(path).splitlines()
    records = [r for r in decode(lines) if r.get("nonce") == job["nonce"]]
    out = open(arguments.out, "a", encoding="utf-8") if arguments.out else None  # noqa: PTH123, SIM115
    if out and out.tell() and not _read_all(arguments.out).endswith("\n"):
        print(file=out, flush=True)  # a line that was cut would swallow the next one

    def emit(record: dict[str, Any]) -> None:
        line = encode({**record, "nonce": job["nonce"]})
        print(line, flush=True)
        if out:
            print(line, file=out, flush=True)

    try:
        bind(job["affinity"])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 5
    gc.disable()
    before = conditions()
    try:
        version = runtime_version(job["runtime"])
    except ImportError as error:
        print(error, file=sys.stderr)
        return 4
    wanted = job.get("runtime_version")
    if "names" in job and wanted not in (None, version):  # else the host says so, once it hears
        print(
            f"this kit is for {job['runtime']} {wanted}, here is {version}: install that one, or "
            "change runtime_version in the device's file and write the kit anew",
            file=sys.stderr,
        )
        return 6
    emit(
        {
            "type": "start",
            "conditions": before,
            "runtime": job["runtime"],
            "runtime_version": version,
            "agent_sha256": hashlib.sha256(_read_all(__file__).encode()).hexdigest(),
            "timer_resolution_ns": timer_resolution_ns(),
            "time_s": int(time.time()),
        }
    )
    records = of_version(records, version)
    named = {r["key"] for r in records if r["type"] == "planned"}
    for key, name in job.get("names", {}).items():
        if key not in named:
            emit({"type": "planned", "key": key, "name": name})
    complete = Job(job, records, emit).run()
    emit({"type": "end", "complete": complete, "conditions": conditions()})
    if out:
        out.close()
    return 0 if complete else 3


def _read_all(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
