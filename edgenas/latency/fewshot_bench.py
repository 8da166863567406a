"""Few-shot adaptation on a table of networks x devices: each device in turn is the new one.

What is known of it are `samples` networks; what is known of the others, all columns of other
chips. Spearman's rank correlation, error and coverage are counted over networks that were not
sampled, isomorphic ones excluded as well.
"""

from __future__ import annotations

import math
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas
from edgenas.artifacts import derive_seed, read_csv
from edgenas.errors import SpecError, UsageError, nearest
from edgenas.events import Event, Report, silent
from edgenas.latency.baselines import spearman
from edgenas.latency.cost import non_negative
from edgenas.latency.fewshot import MIN_SAMPLES, Adapted, FewShot, Floats

FEW_SHOT_SCHEMA = "edgenas.bench-few-shot/1"
CLIP = 0.01
"""A latency below this share of its column's median is raised to it: no network that computes."""
MAX_NETWORKS = 2500
"""A larger table is thinned to so many networks at random, the same for every device and draw."""
MAX_CANDIDATES = 400
"""From so many random networks (drawn anew each time) the chosen samples are chosen."""
MIN_TEST = 10
LEAST, MOST = 1e-12, 1e12
"""Latencies outside are no time of a network in any unit, and their squares leave the floats."""

_TOKEN = re.compile(r"[^\s|+,;:()\[\]]+")
_LATENCY = re.compile(r"(.*_ms|latency_.*)")
_MACS = re.compile(r"(macs|flops)(_.*)?", re.IGNORECASE)
_CELL = re.compile(r"\|[^|+]+~0\|\+(\|[^|+]+~[01]){2}\|\+(\|[^|+]+~[012]){3}\|")
_CELL_MACS = {"nor_conv_3x3": 9, "nor_conv_1x1": 1}
_CONV_MACS = 15 * 262_144
"""A 1x1 convolution of a NAS-Bench-201 cell on 32x32 images: 15 cells, each 32^2 x 16^2 MACs."""
_FIXED_MACS = 7_783_040
"""Stem, the two residual blocks between stages, classifier."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class FewShotTable:
    """A table of networks x devices; NaN where a cell is blank."""

    devices: tuple[str, ...]
    chips: tuple[str, ...]
    latency_ms: Floats
    features: tuple[Floats, ...]
    """Blocks: one-hot choices, counts of tokens, numbers."""
    onehot: Floats
    macs: Floats | None
    kinds: npt.NDArray[np.intp]
    """Networks with the same number are the same network."""
    clipped: tuple[int, ...]
    """By device: cells that were raised to 1 % of the column's median."""


@dataclass(frozen=True, slots=True)
class FewShotRow:
    """One method on one device with so many samples; means over the draws, and their spread."""

    device: str
    method: str
    samples: int
    n: int
    n_test: int
    spearman: float
    spearman_sd: float
    error_median: float
    within_10: float
    coverage: float | None
    """Share of the networks inside the 90 % interval; None where a method has no interval."""


def read_few_shot(
    path: Path,
    *,
    architecture: Sequence[str] = (),
    devices: Sequence[str] = (),
    group: str = r"_\d+$",
) -> FewShotTable:
    """The table that a CSV file (also gzip-compressed) holds.

    Args:
        path: a file with a header line, a network a line.
        architecture: columns that describe a network. Numbers are features as they are (and one
            by one); texts are split into tokens, whose positions and counts are the features.
        devices: latency columns; default: those named `..._ms` or `latency_...`.
        group: a regular expression; what is left of a device's name (without `_ms`, `latency_`)
            when it is cut out names the chip. Default: a trailing number, the batch size.

    Raises:
        UsageError: a column that is not there, fewer than two chips, a bad expression.
        SpecError: a latency that is no positive number or out of all bounds, an architecture that
            is blank.
    """
    columns, rows = read_csv(path)
    names = tuple(devices) or tuple(
        c for c in columns if _LATENCY.fullmatch(c) and c not in architecture
    )
    for column in (*names, *architecture):
        if column not in columns:
            raise UsageError(f"{path}: no column {column!r}; {nearest(column, columns)}")
    try:
        chips = tuple(
            re.sub(group, "", c.removesuffix("_ms").removeprefix("latency_")) for c in names
        )
    except re.error as error:
        raise UsageError(f"--group {group!r} is no regular expression: {error}") from error
    if len(set(chips)) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"{path}: leaving one out needs two different chips, not {sorted(set(chips))}",
            hint="name latency columns with --devices, and what makes them one chip with --group",
        )
    latency = np.array(
        [[_latency(path, i, c, row[c]) for c in names] for i, row in enumerate(rows, 2)]
    ).reshape(len(rows), len(names))
    filled = ~np.isnan(latency)
    for j in np.flatnonzero(filled.sum(0) < MIN_TEST + MIN_SAMPLES):
        raise SpecError(f"{path}: {names[j]} has {filled[:, j].sum()} latencies, too few")
    floor = CLIP * np.nanmedian(latency, axis=0)
    clipped = tuple(int(x) for x in (latency < floor).sum(0))
    latency = np.fmax(latency, floor * np.where(filled, 1, np.nan))
    for name, column in zip(names, latency.T, strict=True):
        low, high = np.nanmin(column), np.nanmax(column)
        if not LEAST <= low <= high <= MOST:
            raise SpecError(
                f"{path}: {name} holds {low:.3g} to {high:.3g}; latencies are between "
                f"{LEAST:g} and {MOST:g}",
                hint="name the columns that are latencies with --devices",
            )
    blocks, onehot, macs, kinds = _describe(path, rows, architecture)
    if macs is None:
        macs = next((_numbers(rows, c) for c in columns if _MACS.fullmatch(c)), None)
    return FewShotTable(names, chips, latency, blocks, onehot, macs, kinds, clipped)


def run_few_shot(
    table: FewShotTable,
    samples: Sequence[int],
    *,
    draws: int = 20,
    seed: int = 0,
    targets: Sequence[str] = (),
    command: str = "",
    report: Report = silent,
) -> dict[str, Any]:
    """Every method on every device that can be left out, as it stands in JSON files.

    `targets`: only these are left out in turn; default: every device.

    Raises:
        UsageError: too few samples, no draw, a target that the table does not have.
        SpecError: fewer networks measured on all devices than are sampled and tested.
    """
    if draws < 1 or not samples or min(samples) < MIN_SAMPLES:
        raise UsageError(f"at least {MIN_SAMPLES} samples and 1 draw are needed")
    if odd := [name for name in targets if name not in table.devices]:
        raise UsageError(f"no device column {odd[0]!r}; {nearest(odd[0], table.devices)}")
    wanted = [j for j, d in enumerate(table.devices) if not targets or d in targets]
    rng = np.random.default_rng(derive_seed(seed, "thin"))
    thin = np.sort(rng.permutation(len(table.latency_ms))[:MAX_NETWORKS])
    rows: list[FewShotRow] = []
    for step, j in enumerate(wanted):
        report(Event("few-shot", step, len(wanted), table.devices[j]))
        rows += _leave_out(table, j, thin, samples, draws, seed)
    report(Event("few-shot", len(wanted), len(wanted)))
    return {
        "schema": FEW_SHOT_SCHEMA,
        "devices": [table.devices[j] for j in wanted],
        "chips": len(set(table.chips)),
        "networks": len(table.latency_ms),
        "networks_used": len(thin),
        "clipped": {d: n for d, n in zip(table.devices, table.clipped, strict=True) if n},
        "n": draws,
        "seed": seed,
        "summary": _summary(rows),
        "rows": [_rounded(asdict(row)) for row in rows],
        "command": command,
        "versions": {
            "edgenas": edgenas.__version__,
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
        },
    }


_Scores = tuple[float, float, float, float | None]


def _leave_out(
    table: FewShotTable, j: int, thin: Rows, samples: Sequence[int], draws: int, seed: int
) -> list[FewShotRow]:
    """All methods with device `j` as the new one."""
    others = [i for i, chip in enumerate(table.chips) if chip != table.chips[j]]
    thin = thin[~np.isnan(table.latency_ms[thin][:, [j, *others]]).any(1)]
    if len(thin) < max(samples) + MIN_TEST:
        raise SpecError(
            f"{len(thin)} networks were measured on {table.devices[j]} and on all other chips: "
            f"too few for {max(samples)} samples and {MIN_TEST} to test",
            hint="leave out devices with blanks: --devices",
        )
    known, target = table.latency_ms[thin][:, others], table.latency_ms[thin, j]
    blocks = [block[thin] for block in table.features]
    method = FewShot(known, chips=[table.chips[i] for i in others], features=blocks)
    base = _Baselines(known, table.onehot[thin], None if table.macs is None else table.macs[thin])
    kinds = table.kinds[thin]
    rows = []
    for k in samples:
        scores: dict[str, list[_Scores]] = {}
        n_test = 0
        for draw in range(draws):
            rng = np.random.default_rng(derive_seed(seed, "draw", table.devices[j], str(k), draw))
            drawn = rng.choice(len(thin), k, replace=False)
            among = rng.choice(len(thin), min(len(thin), max(k, MAX_CANDIDATES)), replace=False)
            chosen = np.array(method.choose(k, among=[int(i) for i in among]))
            found: dict[str, tuple[Rows, Floats | Adapted]] = {
                f"few-shot, {how}": (at, method.adapt(at.tolist(), target[at].tolist()))
                for how, at in (("chosen", chosen), ("random", drawn))
            }
            others_ms = base.predict(drawn, target[drawn])
            found |= {name: (drawn, prediction) for name, prediction in others_ms.items()}
            for name, (at, prediction) in found.items():
                test = ~np.isin(kinds, kinds[at])
                n_test = int(test.sum())
                if n_test < MIN_TEST:
                    raise SpecError(f"only {n_test} networks differ from those sampled: too few")
                scores.setdefault(name, []).append(_score(prediction, target, test))
        for name, found_scores in scores.items():
            rho, error, within, covered = zip(*found_scores, strict=True)
            rows.append(
                FewShotRow(
                    table.devices[j],
                    name,
                    k,
                    draws,
                    n_test,
                    statistics.fmean(rho),
                    statistics.stdev(rho) if draws > 1 else 0.0,
                    statistics.fmean(error),
                    statistics.fmean(within),
                    None if covered[0] is None else statistics.fmean(covered),
                )
            )
    return rows


def _score(prediction: Floats | Adapted, target: Floats, test: npt.NDArray[np.bool_]) -> _Scores:
    """Spearman, median relative error, share within 10 %, share inside the interval."""
    covered = None
    if isinstance(prediction, Adapted):
        inside = (prediction.low_ms <= target) & (target <= prediction.high_ms)
        covered = float(inside[test].mean())
        prediction = prediction.latency_ms
    error = np.abs(prediction / target - 1)[test]
    return (
        spearman(prediction[test], target[test]),
        float(np.median(error)),
        float((error <= 0.1).mean()),
        covered,
    )


class _Baselines:
    """What others do with the same random samples."""

    def __init__(self, known: Floats, onehot: Floats, macs: Floats | None) -> None:
        self._known = known
        self._log = np.log(known)
        self._columns = _scaled(self._log)
        self._onehot = _scaled(onehot)
        self._macs = macs

    def predict(self, at: Rows, measured: Floats) -> dict[str, Floats]:
        """Latency of all networks by method."""
        log = np.log(measured)
        parts = self._known[at] / measured[:, None]  # their mix is to be 1
        gram = parts.T @ parts + 1e-9 * np.eye(parts.shape[1])
        mix = non_negative(gram, parts.sum(0))
        found = {
            "mix of known devices": self._known @ mix,
            "ridge on known devices": np.exp(_ridge(self._columns, at, log)),
            "nearest known device": self._nearest(at, log),
        }
        if self._onehot.shape[1]:
            found["ridge on architecture"] = np.exp(_ridge(self._onehot, at, log))
        if self._macs is not None:
            found["MACs"] = self._macs * float(np.exp(np.median(log - np.log(self._macs[at]))))
        return found

    def _nearest(self, at: Rows, log: Floats) -> Floats:
        ratio = log[:, None] - self._log[at]
        shift = np.median(ratio, axis=0)
        j = int(np.abs(ratio - shift).mean(0).argmin())
        nearest_ms: Floats = self._known[:, j] * np.exp(shift[j])
        return nearest_ms


def _scaled(columns: Floats) -> Floats:
    kept = columns[:, columns.std(0) > 1e-12]
    scaled: Floats = (kept - kept.mean(0)) / kept.std(0) if kept.shape[1] else kept
    return scaled


def _ridge(columns: Floats, at: Rows, log: Floats) -> Floats:
    """Ridge regression; its strength has the smallest leave-one-out error over the samples.

    Bounded by a factor of 10 around the samples: it extrapolates exponentially.
    """
    x, mean = columns[at] - columns[at].mean(0), log.mean()
    best: tuple[float, Floats] | None = None
    for strength in 10.0 ** np.arange(-3, 4):
        inverse = np.linalg.inv(x @ x.T + strength * np.eye(len(at)))
        hat = x @ x.T @ inverse + 1 / len(at)
        errors = (log - mean - (hat - 1 / len(at)) @ (log - mean)) / (1 - np.diag(hat))
        loss = float(errors @ errors)
        if best is None or loss < best[0]:
            best = loss, x.T @ inverse @ (log - mean)
    assert best is not None  # noqa: S101  # there are seven strengths
    found = mean + (columns - columns[at].mean(0)) @ best[1]
    bounded: Floats = np.clip(found, log.min() - math.log(10), log.max() + math.log(10))
    return bounded


def _summary(rows: Sequence[FewShotRow]) -> list[dict[str, Any]]:
    """Means over the devices, by number of samples and method; the best correlation first."""
    found = []
    for k, method in dict.fromkeys((row.samples, row.method) for row in rows):
        mine = [row for row in rows if (row.samples, row.method) == (k, method)]
        worst = min(mine, key=lambda row: row.spearman)
        covered = [row.coverage for row in mine if row.coverage is not None]
        found.append(
            _rounded(
                {
                    "method": method,
                    "samples": k,
                    "devices": len(mine),
                    "n": mine[0].n,
                    "spearman": statistics.fmean(row.spearman for row in mine),
                    "spearman_sd": statistics.fmean(row.spearman_sd for row in mine),
                    "spearman_worst": worst.spearman,
                    "worst_device": worst.device,
                    "error_median": statistics.fmean(row.error_median for row in mine),
                    "within_10": statistics.fmean(row.within_10 for row in mine),
                    "coverage": statistics.fmean(covered) if covered else None,
                }
            )
        )
    return sorted(found, key=lambda row: (row["samples"], -row["spearman"]))


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(x, 5) if isinstance(x, float) else x for key, x in row.items()}


def _latency(path: Path, line: int, column: str, text: str) -> float:
    """NaN where the cell is blank."""
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SpecError(f"{path}: row {line}, {column}: {text!r} is not a positive latency")
    return value


def _numbers(rows: Sequence[dict[str, str]], column: str) -> Floats | None:
    """A column of positive numbers; None if it is none."""
    try:
        values = np.array([float(row[column]) for row in rows])
    except ValueError:
        return None
    return values if np.isfinite(values).all() and (values > 0).all() else None


_Described = tuple[tuple[Floats, ...], Floats, Floats | None, npt.NDArray[np.intp]]


def _describe(
    path: Path, rows: Sequence[dict[str, str]], architecture: Sequence[str]
) -> _Described:
    """Blocks of features, one-hot choices, MACs if known, and which rows are one network."""
    empty = np.zeros((len(rows), 0))
    positions, counts, numbers = [empty], [empty], [empty]
    names: list[list[str]] = [[] for _ in rows]
    macs = None
    for column in architecture:
        texts = [row[column].strip() for row in rows]
        if "" in texts:
            raise SpecError(f"{path}: row {texts.index('') + 2}, {column} is blank")
        values = _finite(texts)
        tokens = [_TOKEN.findall(text) for text in texts]
        if values is not None:
            numbers.append(values[:, None])
        positions += [
            _onehot([found[i] if i < len(found) else "" for found in tokens])
            for i in range(max(map(len, tokens)))
        ]
        words = sorted({word for found in tokens for word in found})
        if values is None and len(words) <= len(rows) // 2:
            words = sorted({word.partition("~")[0] for word in words})
            plain = [[word.partition("~")[0] for word in found] for found in tokens]
            counts.append(np.array([[float(f.count(w)) for w in words] for f in plain]))
        same = texts
        if all(_CELL.fullmatch(text) for text in texts):
            cells = [_cell(text) for text in texts]
            same = [canonical_cell(text) for text in texts]
            macs = np.array([cell_macs(text) for text in texts])
            counts.append(np.array([_live(cell) for cell in cells]))
        for name, text in zip(names, same, strict=True):
            name.append(text)
    index: dict[tuple[str, ...], int] = {}
    kinds = np.array([index.setdefault(tuple(name), len(index)) for name in names], dtype=np.intp)
    if not architecture:
        kinds = np.arange(len(rows))
    onehot = np.hstack(positions)
    blocks = tuple(b for b in (onehot, *counts, np.hstack(numbers)) if b.shape[1])
    return blocks, onehot, macs, kinds


def _finite(texts: Sequence[str]) -> Floats | None:
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _onehot(tokens: Sequence[str]) -> Floats:
    """A column for each token; none where all are alike or nearly all differ."""
    words = sorted(set(tokens))
    if len(words) < 2 or len(words) > 64:
        return np.zeros((len(tokens), 0))
    return np.array([[float(token == word) for word in words] for token in tokens])


_Edges = list[list[tuple[str, int]]]


def _cell(text: str) -> _Edges:
    """Of nodes 1 to 3 of a NAS-Bench-201 cell: the operation on each edge and where it starts."""
    found: _Edges = []
    for node in text.split("+"):
        edges = [edge.split("~") for edge in node.strip("|").split("|")]
        found.append([(op, int(source)) for op, source in edges])
    return found


def canonical_cell(text: str) -> str:
    """One text for all NAS-Bench-201 cells that compute the same (Dong and Yang 2020, 6,466)."""
    names = ["0"]
    for node in _cell(text):
        inputs = []
        for op, source in node:
            if op == "none" or names[source] == "#":
                inputs.append("#")
            elif op == "skip_connect":
                inputs.append(names[source])
            else:
                inputs.append(f"({names[source]})@{op}")
        names.append("+".join(sorted(inputs)))
    return names[-1]


def cell_macs(text: str) -> float:
    """MACs of the NAS-Bench-201 network with this cell, on 32 x 32 images, dead ends included."""
    weights = sum(_CELL_MACS.get(op, 0) for node in _cell(text) for op, _ in node)
    return float(_FIXED_MACS + weights * _CONV_MACS)


def _live(cell: _Edges) -> list[float]:
    """How many operations of each kind lie on a path from the cell's input to its output."""
    ops = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    edges = [(op, i, j) for j, node in enumerate(cell, 1) for op, i in node if op != "none"]
    fed, used = {0}, {3}
    for j in (1, 2, 3):
        if any(i in fed for _, i, end in edges if end == j):
            fed.add(j)
    for i in (2, 1, 0):
        if any(end in used for _, start, end in edges if start == i):
            used.add(i)
    live = [op for op, i, j in edges if i in fed and j in used]
    return [float(live.count(op)) for op in ops]
