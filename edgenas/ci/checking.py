"""`ci check`: the gates on what is locked, for a pull request. Searches, exports and times nothing.

| gate | fails where |
|---|---|
| `lock` | a fact is not what the lock says, so that a stage is stale |
| `files` | a file that the lock or the run's manifest lists is missing or has another SHA-256 |
| `certificate` | an exported network has none, a damaged one, or that of other files or figures |
| `bound` | an exported network misses a bound of its target by the table, with its whole interval |
| `latency` | it is longer than the limit, or than the base says of the same network and table |
| `accuracy` | a file's top-1 is below the limit, or below the base's by more than noise |
| `drop` | a file lost more of top-1 against its network in torch than is allowed |
| `size` | a file is larger than the limit, or than a bound on `size_bytes` |
| `arena` | an int8 TFLite file needs a larger arena than the limit, as TFLite-Micro plans it |

A figure with an interval fails where the interval lies beyond the limit, passes where the figure
meets it, and is inconclusive between; an accuracy of fewer than 500 images is never passed. The
*base* is the lock to compare with, such as that of the branch to be merged into; without one it is
the lock itself, with which the certificates and tables that are here are compared.

In a fleet a network is held to the bounds and the latency of the devices that run it.

The same file on the same images answers alike on every machine but for rounding: a certificate may
state an accuracy that is off the locked one by 1 % of the images, and every other figure exactly.

The latency is always that of the device's table: the clock of the machine that checks has no say.
Two accuracies are compared as if they came of independent images (a 95 % interval of Wald's), since
files do not keep which images they named rightly; on the same images the noise is smaller, so the
gate is the more cautious in failing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.ci.facts import Reader
from edgenas.ci.lock import (
    LOCK,
    Entry,
    File,
    certificate_digest,
    read_lock,
    stored_metrics,
)
from edgenas.ci.planning import RUNS, TargetPlan, plan, table_metrics
from edgenas.ci.targets import TARGETS, Target
from edgenas.errors import EdgenasError, UsageError, nearest
from edgenas.export.certificate import Certificate, ExportedModel, read_certificate
from edgenas.export.verify import MIN_IMAGES, Z95, Verdict, drop_gate, judged, wilson
from edgenas.hardware import load_device
from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.pipeline.metrics import COSTLY

SCHEMA = "edgenas.ci-check/1"
GATES = (
    "lock", "files", "certificate", "bound", "latency", "accuracy", "drop", "size", "arena",
)  # fmt: skip
_ASKED = ("bound", "objective", "device", "data", "seed", "select")
"""Facts of which another one asks for other networks: their accuracies are not compared."""

Metrics = Mapping[str, Mapping[str, Metric]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a gate found of one subject: a file, a network, a fact."""

    gate: str
    verdict: Verdict
    subject: str
    figure: str
    limit: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.subject}: {self.figure}; {self.limit}"


@dataclass(frozen=True, slots=True)
class Judged:
    """A target's findings."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Failed before inconclusive before passed."""
        found = {finding.verdict for finding in self.findings}
        return next((v for v in _ORDER if v in found), "passed")

    def of(self, verdict: Verdict) -> list[Finding]:
        """The findings with this verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]


_ORDER: tuple[Verdict, ...] = ("failed", "inconclusive", "passed")


@dataclass(frozen=True, slots=True)
class Checked:
    """Every target's findings."""

    targets: tuple[Judged, ...]

    @property
    def exit_code(self) -> int:
        """5 where a gate failed."""
        return 5 if any(t.verdict == "failed" for t in self.targets) else 0

    def only(self, gates: Sequence[str]) -> Checked:
        """What these gates alone found.

        Raises:
            UsageError: there is no such gate.
        """
        for gate in gates:
            if gate not in GATES:
                raise UsageError(f"no gate {gate!r}; {nearest(gate, GATES)}")
        kept = (
            Judged(t.name, tuple(f for f in t.findings if f.gate in gates)) for t in self.targets
        )
        return Checked(tuple(kept))

    def document(self) -> dict[str, Any]:
        """As `ci check --json` prints it (schema `edgenas.ci-check/1`)."""
        return {
            "schema": SCHEMA,
            "passed": self.exit_code == 0,
            "targets": [
                {
                    "target": t.name,
                    "verdict": t.verdict,
                    "gates": [
                        {
                            "gate": f.gate,
                            "verdict": f.verdict,
                            "subject": f.subject,
                            "figure": f.figure,
                            "limit": f.limit,
                        }
                        for f in t.findings
                    ],
                }
                for t in self.targets
            ],
            "exit_code": self.exit_code,
        }

    def text(self) -> str:
        """For people: what failed and what is open, and how many gates passed."""
        lines = []
        for t in self.targets:
            word = t.verdict.upper() if t.verdict == "failed" else t.verdict
            lines.append(f"{t.name}: {word} ({len(t.of('passed'))} of {len(t.findings)} passed)")
            lines += [f"  FAILED {finding}" for finding in t.of("failed")]
            lines += [f"  inconclusive {finding}" for finding in t.of("inconclusive")]
        return "\n".join(lines)


def check(
    targets: Path = TARGETS,
    *,
    lock: Path = LOCK,
    runs: Path = RUNS,
    base: Path | None = None,
    only: Sequence[str] = (),
) -> Checked:
    """Holds what is locked to the gates of its target. Writes nothing.

    Args:
        targets: the targets file.
        lock: the lock.
        runs: the folder of runs.
        base: the lock to compare with; default: `lock` itself.
        only: these targets alone.

    Raises:
        UsageError: `only` names no target.
        SpecError: a file is missing or wrong.
    """
    reader = Reader(runs)
    before = None if base is None else read_base(base)
    judgements = []
    for t in plan(targets, lock=lock, runs=runs, only=only, reader=reader).targets:
        found = list(_of_the_lock(t))
        if t.target is not None and t.entry is not None:
            reference = t.entry if before is None else before.get(t.name)
            found += _Check(t.target, t.entry, t, reference, reader, runs / t.entry.run).findings()
        judgements.append(Judged(t.name, tuple(found)))
    return Checked(tuple(judgements))


def read_base(base: Path) -> dict[str, Entry]:
    """The lock to compare with; an empty file, as git leaves of one that is not there, is none.

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is no lock, or damaged.
    """
    if not base.is_file():
        raise UsageError(f"no lock {base} to compare with", hint="git show main:edgenas.lock > ...")
    return read_lock(base, hint=f"write it again: git show main:edgenas.lock > {base}")


def _of_the_lock(t: TargetPlan) -> Iterator[Finding]:
    """Whether the lock is of the facts as they are."""
    mend = "edgenas ci run makes it new"
    match t.state:
        case "new":
            yield Finding("lock", "failed", t.name, "it is not in the lock", mend)
        case "gone":
            yield Finding("lock", "failed", t.name, "it is in the lock and no target", mend)
        case _:
            changes = [c for c in t.changes if c.stage and c.fact != "results"]
            for c in changes:
                yield Finding("lock", "failed", f"{c.stage} is stale", c.text, mend)
            if not changes:
                told = "; ".join(t.notes) or f"as {len(t.facts)} facts are"
                yield Finding("lock", "passed", t.name, told, "nothing stale")


@dataclass(frozen=True)
class _Check:
    """One target against its gates."""

    target: Target
    entry: Entry
    plan: TargetPlan
    base: Entry | None
    reader: Reader
    folder: Path

    def findings(self) -> Iterator[Finding]:
        for problem in self.plan.missing:
            yield Finding("files", "failed", self.entry.run, problem, "as the lock says")
        if not self.plan.missing:
            n = len(self.entry.files) + 1
            yield Finding("files", "passed", self.entry.run, f"{n} files", "as the lock says")
        certificates: dict[str, Certificate] = {}
        for digest in self.entry.exported:
            try:
                certificates[digest] = read_certificate(self.folder / "models" / digest)
            except EdgenasError as error:
                yield Finding("certificate", "failed", digest, str(error), "a whole certificate")
        for digest, certificate in certificates.items():
            yield self._certificate(digest, certificate)
        metrics, unreadable = self._metrics()
        yield from unreadable
        models = {
            f"models/{digest}/{model.path}": model
            for digest, certificate in certificates.items()
            for model in certificate.models
        }
        yield from self._bounds(metrics)
        yield from self._latencies(metrics)
        yield from self._drops(models)
        yield from self._accuracies(models)
        yield from self._sizes(models)
        yield from self._arenas(models)

    def _certificate(self, digest: str, certificate: Certificate) -> Finding:
        locked = self.entry.certificates.get(digest, "none")
        found, problems = certificate_digest(certificate), certificate.problems()
        if found != locked:
            told = f"it is of other files, parents or limits: {found}"
            return Finding("certificate", "failed", digest, told, f"locked {locked}")
        if problems:
            return Finding("certificate", "failed", digest, "; ".join(problems), "every gate")
        told = f"{len(certificate.models)} files verified"
        if unsure := [f"{m.path}: {why}" for m in certificate.models for why in m.unsure]:
            return Finding("certificate", "inconclusive", digest, "; ".join(unsure), "every gate")
        return Finding("certificate", "passed", digest, told, f"locked {locked}")

    def _metrics(self) -> tuple[Metrics, list[Finding]]:
        """What is known now of each exported network, by the tables of today; what failed."""
        stored: Metrics = {}
        failed: list[Finding] = []
        try:
            stored = stored_metrics(self.target, self.folder)
        except EdgenasError as error:
            failed.append(Finding("files", "failed", "front.json", str(error), "a whole front"))
        found = {
            digest: dict(stored.get(digest, {}))
            or {n: Metric(v, "locked") for n, v in self.entry.front[digest].metrics.items()}
            for digest in self.entry.exported
        }
        for device in self.target.devices:
            fact = f"table {device}"
            if self.plan.facts.get(fact) == self.entry.facts.get(fact):
                continue
            try:
                now = table_metrics(self.target, self.entry, self.reader, device)
            except EdgenasError as error:
                told = str(error)
                failed.append(Finding("latency", "failed", device, told, "its table can be read"))
                continue
            for digest, metrics in found.items():
                metrics |= now[digest]
        return found, failed

    def _bounds(self, metrics: Metrics) -> Iterator[Finding]:
        for objective in self.target.objectives:
            if objective.bound is None or objective.metric == "size_bytes":
                continue
            for digest, found in metrics.items():
                if not self.entry.runs(digest, objective.device):
                    continue
                if objective.name in found:
                    yield _against(objective, found[objective.name], digest)
                else:
                    told = "nobody knows it: the run is from before it was asked for"
                    limit = f"{objective.relation} {objective.bound:g}"
                    subject = f"{objective.name} of {digest}"
                    yield Finding("bound", "inconclusive", subject, told, limit)

    def _latencies(self, metrics: Metrics) -> Iterator[Finding]:
        limit = self.target.gates.max_latency_ms
        for digest, found in metrics.items():
            for device in self.target.devices:
                name, fact = f"latency_ms@{device}", f"table {device}"
                if name not in found or not self.entry.runs(digest, device):
                    continue
                metric, subject = found[name], f"{digest} on {device}"
                if limit is not None:
                    yield _at_most("latency", metric, limit, subject, f"limit {limit:g} ms")
                if self.base is None or self.base.facts.get(fact) != self.entry.facts.get(fact):
                    continue
                before = self.base.front.get(digest)
                if before is not None and name in before.metrics:
                    locked = before.metrics[name]
                    text = f"locked {locked:.4g} ms"
                    yield _at_most("latency", metric, locked * (1 + 1e-6), subject, text)

    def _drops(self, models: Mapping[str, ExportedModel]) -> Iterator[Finding]:
        for path, model in models.items():
            limit = self.target.config.max_top1_drop
            gate = drop_gate(model.verification, max_top1_drop=limit)
            yield Finding("drop", gate.verdict, path, gate.reason, f"limit {limit:g}")

    def _accuracies(self, models: Mapping[str, ExportedModel]) -> Iterator[Finding]:
        least = self.target.gates.min_top1
        for path, model in models.items():
            if least is not None:
                e = model.verification
                low, high = wilson(e.top1 * e.n, e.n)
                verdict = judged(met=e.top1 >= least, excluded=high < least, n=e.n)
                told = f"top-1 {e.top1:.4f}, 95 % interval [{low:.4f}, {high:.4f}], n = {e.n}"
                yield Finding("accuracy", verdict, path, told, f"limit {least:g}")
        if self.base is None:
            return
        facts, before = self.entry.facts, self.base.facts
        asked = sorted(
            fact
            for fact in {*facts, *before}
            if fact.startswith(_ASKED) and facts.get(fact) != before.get(fact)
        )
        if asked:
            told = f"not compared with the base: {', '.join(asked)} changed"
            yield Finding("accuracy", "inconclusive", self.target.name, told, "the same question")
            return
        for path, model, reference in _pairs(models, self.base.files):
            yield self._no_worse(path, model, reference)

    def _no_worse(self, path: str, model: ExportedModel, reference: File) -> Finding:
        e, limit = model.verification, self.target.gates.max_top1_loss
        loss = reference.top1 - e.top1
        variance = e.top1 * (1 - e.top1) / e.n
        variance += reference.top1 * (1 - reference.top1) / reference.n_images
        half = Z95 * math.sqrt(variance)
        n = min(e.n, reference.n_images)
        verdict = judged(met=loss <= limit + 1e-12, excluded=loss - half > limit, n=n)
        told = (
            f"top-1 {e.top1:.4f}, the base {reference.top1:.4f}: loss {loss:+.4f}, 95 % interval "
            f"[{loss - half:+.4f}, {loss + half:+.4f}], n = {n}"
        )
        return Finding("accuracy", verdict, path, told, f"limit {limit:g}")

    def _sizes(self, models: Mapping[str, ExportedModel]) -> Iterator[Finding]:
        limits: list[tuple[str | None, str | None, int | None, str]] = [
            (None, None, self.target.gates.max_size_bytes, "limit")
        ]
        for objective in self.target.objectives:
            if objective.metric == "size_bytes" and objective.relation == "<=":
                device = str(objective.device)
                most = math.floor(objective.bound or 0)
                limits.append((device, load_device(device).format, most, "bound"))
        for path, model in models.items():
            digest = path.split("/")[1]
            for of, format_, limit, what in limits:
                if not self.entry.runs(digest, of):
                    continue
                if limit is not None and format_ in (None, model.format):
                    verdict: Verdict = "passed" if model.size_bytes <= limit else "failed"
                    told = f"{model.size_bytes} bytes"
                    yield Finding("size", verdict, path, told, f"{what} {limit} bytes")

    def _arenas(self, models: Mapping[str, ExportedModel]) -> Iterator[Finding]:
        from edgenas.models import micro_arena_of_file

        limit = self.target.gates.max_arena_bytes
        if limit is None:
            return
        planned = [path for path, model in models.items() if model.format == "tflite-int8"]
        if not planned:
            told = "nothing to plan an arena of: no tflite-int8 file is exported"
            yield Finding("arena", "inconclusive", self.target.name, told, f"limit {limit} bytes")
        for path in planned:
            try:
                bytes_ = micro_arena_of_file(self.folder / path).total
            except EdgenasError as error:
                yield Finding("arena", "failed", path, str(error), f"limit {limit} bytes")
                continue
            verdict: Verdict = "passed" if bytes_ <= limit else "failed"
            yield Finding("arena", verdict, path, f"{bytes_} bytes", f"limit {limit} bytes")


def _pairs(
    models: Mapping[str, ExportedModel], before: Mapping[str, File]
) -> Iterator[tuple[str, ExportedModel, File]]:
    """Files with what to compare them with: the same file, and of each format the best one."""
    seen = set()
    for path, model in models.items():
        if path in before:
            seen.add((path, path))
            yield path, model, before[path]
    for name in sorted({model.format for model in models.values()}):
        best = max((p for p in models if models[p].format == name), key=lambda p: _top1(models[p]))
        others = [path for path, file in before.items() if file.format == name]
        if others:
            other = max(others, key=lambda path: before[path].top1)
            if (best, other) not in seen:
                yield best, models[best], before[other]


def _top1(model: ExportedModel) -> float:
    return model.verification.top1


def _against(objective: Objective, metric: Metric, digest: str) -> Finding:
    """A network's metric against a bound."""
    subject = f"{objective.name} of {digest}"
    limit = f"{objective.relation} {objective.bound:g}"
    if objective.metric in COSTLY and metric.n is not None:
        low, high = wilson(metric.value * metric.n, metric.n)
        n, told = metric.n, f"{metric.value:.4f} [{low:.4f}, {high:.4f}], n = {metric.n}"
    else:
        low, high = metric.bounds
        n, told = MIN_IMAGES, f"{metric.value:.6g} [{low:.6g}, {high:.6g}], {metric.origin}"
    name = objective.name
    met = objective.feasible({name: metric.value})
    excluded = not objective.feasible({name: low if objective.relation == "<=" else high})
    return Finding("bound", judged(met=met, excluded=excluded, n=n), subject, told, limit)


def _at_most(gate: str, metric: Metric, limit: float, subject: str, text: str) -> Finding:
    low, high = metric.bounds
    verdict = judged(met=metric.value <= limit, excluded=low > limit, n=MIN_IMAGES)
    told = f"{metric.value:.4g} ms [{low:.4g}, {high:.4g}], {metric.origin}"
    return Finding(gate, verdict, subject, told, text)
