"""What each published table is fitted to: which rows of which file, and what they do not say."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgenas.errors import SpecError
from edgenas.hardware.device import DeviceClass, DeviceProfile, Precision, RuntimeName
from edgenas.latency.cost import features
from edgenas.latency.whole import Observed, shape_of
from edgenas.spaces.ops import OpSpec, conv
from tools.calibration import architectures as nets

SAMPLE = 400
"""Networks taken from a file with thousands of them, by the hash of what they are."""

ORIGIN: Mapping[str, tuple[str, str]] = {
    "mlperf_inference_mobile_models": ("mlcommons/inference_results_v0.5 to v3.0", "Apache-2.0"),
    "mlperf_tiny": ("mlcommons/tiny_results_v0.5 to v1.2", "Apache-2.0"),
    "note10_ofa_block_latency": ("gatech-sysml/CompOFA@6b53946", "Apache-2.0"),
    "ofa_mobilenetv3_gpu_latency": ("HayeonLee/HELP@45f70eb", "MIT"),
    "accel_nasbench": ("afzalxo/Accel-NASBench@4260357", "Apache-2.0"),
    "published_model_latencies": ("public documents, a URL a row", "differ by document"),
}

Row = dict[str, str]
Others = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Plan:
    """One table to be: its device, the networks that it is fitted to, and where they come from.

    `others`: latencies of the same networks on other devices; `names_others`: tables whose
    predictions stand in where no other device was timed on them.
    """

    device: DeviceProfile
    networks: tuple[Observed, ...]
    file: str
    chosen: str
    n_rows: int
    split: str
    unstated: tuple[str, ...]
    others: Others = field(default_factory=dict)
    names_others: tuple[str, ...] = ()
    shape: Mapping[str, float] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    urls: tuple[str, ...] = ()

    def data(self, folder: Path) -> dict[str, Any]:
        """The `data` of the table's conditions."""
        upstream, licence = ORIGIN[self.file]
        path = folder / f"{self.file}.csv.gz"
        found: dict[str, Any] = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "upstream": upstream,
            "licence": licence,
            "filter": self.chosen,
            "n_rows": self.n_rows,
            "n_networks": len({n.name for n in self.networks}),
        }
        return found | ({"urls": list(self.urls)} if self.urls else {})


Source = Callable[[Path], Plan]


@functools.cache
def rows(folder: Path, file: str) -> tuple[Row, ...]:
    """The rows of a measurement file.

    Raises:
        SpecError: it is not there.
    """
    path = folder / f"{file}.csv.gz"
    if not path.is_file():
        raise SpecError(f"{path} is not there", hint="--data FOLDER, or set EDGENAS_MEASUREMENTS")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


def device(
    chip: str,
    title: str,
    device_class: DeviceClass,
    *,
    name: str = "",
    runtime: RuntimeName = "unstated",
    version: str | None = None,
    precision: Precision = "unstated",
    threads: int | None = None,
    batch: int = 1,
) -> DeviceProfile:
    """The device; its name says what is stated: chip, runtime, precision, threads, batch."""
    parts = [name or chip]
    parts += [p for p in (runtime, precision) if p != "unstated"]
    parts += [f"t{threads}"] if threads else []
    parts += [f"b{batch}"] if batch != 1 else []
    return DeviceProfile(
        name="-".join(parts),
        title=title,
        device_class=device_class,
        chip=chip,
        runtime=runtime,
        precision=precision,
        threads=threads,
        runtime_version=version,
        batch=batch,
    )


# MLPerf Inference: CPUs (and two Mali GPUs) of boards, MobileNet v1 to v3 and EfficientNet-Lite
_V12 = re.compile(r"mobilenet-(v[12])-(?:precision_(?:float|uint8)-)?([0-9.]+)-([0-9]+)(?:-.*)?")
_V3 = re.compile(r"mobilenet-v3-(large|small)(-minimalistic)?_224_([0-9.]+)_(?:float|uint8)")
_V3_OTHER = re.compile(r"mobilenet-v3-precision_\w+?-(large|small)(-minimalistic)?-224")
_LITE = re.compile(r"(?:(?:non-)?quantized-)?efficientnet-(?:fp32-|int8-)?lite([0-4])(?:-.*)?")


def mobile_network(model: str) -> tuple[str, str, tuple[OpSpec, ...]] | None:
    """Canonical name, group and units of an MLPerf model's name, whichever spelling it has."""
    if m := _V12.fullmatch(model):
        family, width, r = m[1], float(m[2]), int(m[3])
        build = nets.mobilenet_v1 if family == "v1" else nets.mobilenet_v2
        return f"{family}-{width:g}-{r}", f"{family}-{width:g}", build(width, r)
    if m := _V3.fullmatch(model) or _V3_OTHER.fullmatch(model):
        width = float(m[3]) if m.re is _V3 else 1.0
        name = f"v3-{m[1]}{m[2] or ''}-{width:g}"
        return name, name, nets.mobilenet_v3(m[1], width, minimalistic=m[2] is not None)
    if m := _LITE.fullmatch(model):
        return f"lite{m[1]}", f"lite{m[1]}", nets.efficientnet_lite(int(m[1]))
    return None


def mobile_precision(model: str) -> Precision | None:
    """What the model's name says of its numbers."""
    if re.search(r"non-quantized|float|fp32", model):
        return "fp32"
    return "int8" if re.search(r"quantized|uint8|int8", model) else None


# Not Raspberry Pi 3 (v2.0): its p90 is nearly twice its p50, and the fit 18 to 25 % off.
# name, title, chip, class, runtime, version, round, system
_BOARDS: tuple[tuple[str, str, str, DeviceClass, RuntimeName, str, str, str], ...] = (
    ("rpi4", "Raspberry Pi 4, Cortex-A72", "bcm2711", "mobile", "tflite", "2.7.1",
     "v2.1", "rpi4-tflite-v2.7.1-ruy"),
    ("rpi4", "Raspberry Pi 4, Cortex-A72", "bcm2711", "mobile", "armnn", "21.02",
     "v1.0", "rpi4coral-fan.on-armnn-v21.02-neon"),
    ("firefly-rk3399", "Firefly RK3399, Cortex-A72 and A53", "rk3399", "mobile", "tflite",
     "2.5.0", "v1.1", "firefly-tflite-v2.5.0-ruy"),
    ("firefly-rk3588s", "Firefly RK3588S, Cortex-A76 and A55", "rk3588s", "mobile", "tflite",
     "2.11.0", "v3.0", "firefly-tflite-v2.11.0-ruy"),
    ("firefly-rk3588s", "Firefly RK3588S, Cortex-A76 and A55", "rk3588s", "mobile", "armnn",
     "22.05", "v2.1", "firefly-armnn-v22.05-neon"),
    ("odroid-n2plus", "Odroid N2+, Cortex-A73 and A53", "s922x", "mobile", "tflite", "2.11.0",
     "v3.0", "odroid-tflite-v2.11.0-ruy"),
    ("odroid-n2plus", "Odroid N2+, Cortex-A73 and A53", "s922x", "mobile", "armnn", "22.11",
     "v3.0", "odroid-armnn-v22.11-neon"),
    ("xavier", "Jetson AGX Xavier, Carmel processor", "carmel", "mobile", "tflite", "2.11.0",
     "v3.0", "xavier-power.0-fan.cool-tflite-v2.11.0-ruy"),
    ("mali-g52", "Odroid N2+, Mali-G52 MP6 GPU", "mali-g52-mp6", "gpu", "armnn", "22.11",
     "v3.0", "odroid-armnn-v22.11-opencl"),
    ("mali-g610", "Firefly RK3588S, Mali-G610 MP4 GPU", "mali-g610-mp4", "gpu", "armnn", "22.05",
     "v2.1", "firefly-armnn-v22.05-opencl"),
)  # fmt: skip


@functools.cache
def board_networks(
    folder: Path, number: int, precision: Precision
) -> tuple[tuple[Observed, ...], int]:
    """The networks of a board, and of how many rows."""
    *_, run, system = _BOARDS[number]
    found: dict[str, list[Observed]] = {}
    n = 0
    for row in rows(folder, "mlperf_inference_mobile_models"):
        if (row["round"], row["system"]) != (run, system) or row["valid"] != "True":
            continue
        known = mobile_network(row["model"])
        if known and mobile_precision(row["model"]) == precision and row["p50_ms"]:
            name, group, ops = known
            found.setdefault(name, []).append(Observed(name, group, ops, float(row["p50_ms"])))
            n += 1
    middle = [
        replace(same[0], latency_ms=statistics.median(o.latency_ms for o in same))
        for _, same in sorted(found.items())
    ]
    return tuple(middle), n


def board_others(folder: Path, precision: Precision, *, but: str = "") -> Others:
    """Latencies of all boards' networks by device, without those of the chip `but`."""
    found = {}
    for number, (name, _, chip, _, runtime, *_) in enumerate(_BOARDS):
        if chip != but:
            networks, _ = board_networks(folder, number, precision)
            found[f"{name}-{runtime}-{precision}"] = {o.name: o.latency_ms for o in networks}
    return found


def board(number: int, precision: Precision, folder: Path) -> Plan:
    """A board of MLPerf Inference."""
    name, title, chip, kind, runtime, version, run, system = _BOARDS[number]
    networks, n = board_networks(folder, number, precision)
    return Plan(
        device=device(chip, f"{title}, {runtime} {version} {precision}", kind, name=name,
                      runtime=runtime, version=version, precision=precision),
        networks=networks,
        file="mlperf_inference_mobile_models",
        chosen=f"round {run}, system {system}, valid, {precision}; p50_ms; without SSD",
        n_rows=n,
        split="all resolutions of one family and width are left out together",
        unstated=("threads", "affinity", "frequency"),
        others=board_others(folder, precision, but=chip),
    )  # fmt: skip


# Phones: Google's published tables
_PHONES: tuple[tuple[str, str, str, str, Precision, int], ...] = (
    ("pixel1", "Pixel 1, one large core", "Pixel 1", "TFLite CPU (1 large core)", "fp32", 1),
    ("pixel3", "Pixel 3", "Pixel 3", "TFLite CPU", "fp32", 4),
    ("pixel3", "Pixel 3", "Pixel 3", "TFLite CPU", "int8", 4),
)


def phone(number: int, folder: Path) -> Plan:
    """A phone's processor, MobileNets only."""
    name, title, label, runtime, precision, threads = _PHONES[number]
    found: dict[str, list[Observed]] = {}
    urls, n = set(), 0
    for row in rows(folder, "published_model_latencies"):
        where = row["device"], row["runtime"], row["precision"], row["threads"]
        if where != (label, runtime, precision, str(threads)):
            continue
        words = row["model"].lower().replace("mobilenetv3", "mobilenet v3").split()
        match words:
            case ["mobilenet", "v1" | "v2" as family, width]:
                spelled = f"mobilenet-{family}-{width}-{row['input']}"
            case ["mobilenet", "v3", size, "minimalistic"]:
                spelled = f"mobilenet-v3-{size}-minimalistic_224_1.0_float"
            case ["mobilenet", "v3", size, width]:
                spelled = f"mobilenet-v3-{size}_224_{width}_float"
            case _:
                continue
        known = mobile_network(spelled)
        assert known is not None, spelled  # noqa: S101
        found.setdefault(known[0], []).append(Observed(*known, float(row["latency_ms"])))
        urls.add(row["source_url"])
        n += 1
    networks = [
        replace(same[0], latency_ms=statistics.median(o.latency_ms for o in same))
        for _, same in sorted(found.items())
    ]
    return Plan(
        device=device(name, f"{title}, TFLite {precision}", "mobile", runtime="tflite",
                      precision=precision, threads=threads),
        networks=tuple(networks),
        file="published_model_latencies",
        chosen=f"device {label}, runtime {runtime}, {precision}, {threads} threads; MobileNets",
        n_rows=n,
        split="all resolutions of one family and width are left out together",
        unstated=("runtime version", "affinity", "frequency"),
        others=board_others(folder, precision),
        urls=tuple(sorted(urls)),
    )  # fmt: skip


# Galaxy Note10: once-for-all blocks of width 1.2
_NOTE10 = re.compile(r"input:(\d+)x\d+x(\d+)-output:(\d+)(?:x\d+x(\d+))?(?:-expand:(\d+)-kernel:(\d)-stride:(\d)-idskip:(\d)-se:(\d)-hs:(\d))?")  # fmt: skip  # noqa: E501


def note10_block(block: str) -> tuple[OpSpec, ...]:
    """The units of a row of the block table."""
    kind, _, rest = block.partition("-")
    m = _NOTE10.fullmatch(rest)
    assert m is not None, block  # noqa: S101
    h, cin, out = int(m[1]), int(m[2]), int(m[3])
    if kind == "expanded_conv":
        cout, hidden, k, s, skip, se, hs = (int(m[i]) for i in range(4, 11))
        return (
            OpSpec.of("inverted", act="hswish" if hs else "relu", cin=cin, hidden=hidden, cout=cout,
                      h=h, w=h, k=k, s=s, se=nets.divisible(hidden / 4) if se else 0, skip=skip),
        )  # fmt: skip
    if kind == "AvgPool2D":
        return (OpSpec.of("pool", c=cin, h=h, w=h),)
    if kind == "Logits":
        return (OpSpec.of("linear", cin=cin, cout=out),)
    k, s = (3, 2) if kind == "Conv" else (1, 1)
    return (conv(cin, int(m[4]), h, h, k, s=s, act="hswish"),)


def note10(folder: Path) -> Plan:
    """Galaxy Note10."""
    table = rows(folder, "note10_ofa_block_latency")
    networks = tuple(
        Observed(
            f"{row['resolution']} {row['block']}",
            re.sub(r"(input|output):\d+x\d+x", "", row["block"]),
            note10_block(row["block"]),
            float(row["mean_ms"]),
        )
        for row in table
    )
    return Plan(
        device=device("galaxy-note10", "Samsung Galaxy Note10, processor", "mobile"),
        networks=networks,
        file="note10_ofa_block_latency",
        chosen="all rows; mean_ms; width 1.2",
        n_rows=len(table),
        split="blocks, not networks: a block's rows at all resolutions are left out together; no "
        "whole network was ever timed, so that how blocks add up is unknown",
        unstated=("runtime", "precision", "threads", "affinity", "frequency"),
        names_others=("rpi4-tflite-fp32", "firefly-rk3588s-tflite-fp32", "xavier-tflite-fp32",
                      "odroid-n2plus-tflite-fp32", "firefly-rk3399-tflite-fp32"),
    )  # fmt: skip


# GPUs: once-for-all networks
_GPUS = {
    "v100": ("v100", "NVIDIA V100"),
    "titan-rtx": ("titan_rtx", "NVIDIA Titan RTX"),
    "titan-xp": ("titan_xp", "NVIDIA Titan Xp"),
    "rtx2080ti": ("2080ti", "NVIDIA RTX 2080 Ti"),
}


def _sampled(keys: list[str]) -> list[int]:
    """Indices of the rows to take: those whose networks' hashes are smallest."""
    ranked = sorted(set(keys), key=lambda k: hashlib.sha256(k.encode()).hexdigest())[:SAMPLE]
    chosen = set(ranked)
    return [i for i, key in enumerate(keys) if key in chosen]


@functools.cache
def once_for_all_rows(folder: Path) -> tuple[tuple[str, tuple[OpSpec, ...], Row], ...]:
    """Canonical name, units and row of the sampled networks."""
    table = rows(folder, "ofa_mobilenetv3_gpu_latency")
    settings = []
    for row in table:
        ks, e, d = (tuple(map(int, row[name].split(","))) for name in ("ks", "e", "d"))
        active = [i < d[i // 4] + i // 4 * 4 for i in range(20)]
        ks, e = (tuple(v if on else 0 for v, on in zip(x, active, strict=True)) for x in (ks, e))
        settings.append((ks, e, d, int(row["r"])))
    chosen = _sampled([str(s) for s in settings])
    return tuple((str(settings[i]), nets.once_for_all(*settings[i]), table[i]) for i in chosen)


def gpu(name: str, batch: int, folder: Path) -> Plan:
    """A GPU at a batch size."""
    column, title = _GPUS[name]
    table = once_for_all_rows(folder)

    def of(other: str) -> Iterator[tuple[str, float]]:
        for key, _, row in table:
            yield key, float(row[f"help_{_GPUS[other][0]}_{batch}_ms"])

    networks = tuple(
        Observed(key, key, ops, float(row[f"help_{column}_{batch}_ms"])) for key, ops, row in table
    )
    return Plan(
        device=device(name, f"{title}, batch {batch}", "gpu", batch=batch),
        networks=networks,
        file="ofa_mobilenetv3_gpu_latency",
        chosen=f"column help_{column}_{batch}_ms, {SAMPLE} of 4,000 networks by hash",
        n_rows=len(networks),
        split="networks at random, repeats together",
        unstated=("runtime", "precision", "width multiplier (taken as 1.0)"),
        others={other: dict(of(other)) for other in _GPUS if other != name},
        notes={"latency_of": f"a whole batch of {batch}"},
    )


# Accelerators of Accel-NASBench: images per second
_ACCELERATORS: Mapping[str, tuple[str, str, DeviceClass, RuntimeName]] = {
    "a100": ("a100", "NVIDIA A100", "gpu", "unstated"),
    "rtx3090": ("3090", "NVIDIA RTX 3090", "gpu", "unstated"),
    "tpu-v2": ("tpuv2", "Google TPU v2", "tpu", "xla"),
    "tpu-v3": ("tpuv3", "Google TPU v3", "tpu", "xla"),
}


@functools.cache
def accel_rows(folder: Path) -> tuple[tuple[str, tuple[OpSpec, ...], Row], ...]:
    """Canonical name, units and row of the sampled networks."""
    table = rows(folder, "accel_nasbench")
    settings = [
        tuple(
            (int(row[f"block{i}_e"]), int(row[f"block{i}_k"]), int(row[f"block{i}_l"]),
             row[f"block{i}_se"] == "True")
            for i in range(7)
        )
        for row in table
    ]  # fmt: skip
    chosen = _sampled([str(s) for s in settings])
    return tuple((str(settings[i]), nets.accel_nasbench(settings[i]), table[i]) for i in chosen)


def accelerator(name: str, folder: Path) -> Plan:
    """An accelerator by its throughput."""
    column, title, kind, runtime = _ACCELERATORS[name]
    wanted = {other: f"throughput_{c[0]}" for other, c in _ACCELERATORS.items()}
    table = [r for r in accel_rows(folder) if all(r[2][c] for c in wanted.values())]
    ms = {
        other: {key: 1000 / float(row[c]) for key, _, row in table} for other, c in wanted.items()
    }
    networks = tuple(
        Observed(key, key, ops, 1000 / float(row[f"throughput_{column}"]))
        for key, ops, row in table
    )
    return Plan(
        device=device(name, f"{title}, ms per image at full throughput", kind,
                      name=f"{name}-throughput", runtime=runtime),
        networks=networks,
        file="accel_nasbench",
        chosen=f"1000 / throughput_{column}, {SAMPLE} of 4,000 networks by hash, blanks left out",
        n_rows=len(networks),
        split="networks at random, repeats together",
        unstated=("batch", "precision", "runtime version"),
        others={other: values for other, values in ms.items() if other != name},
        notes={"latency_of": "an image at full throughput (1 / images per second), which is no "
               "latency of a single image; the batch is not stated"},
    )  # fmt: skip


# Coral Edge TPU
_CORAL = {
    "MobileNet v1": functools.partial(nets.mobilenet_v1, 1.0, 224),
    "MobileNet v2": functools.partial(nets.mobilenet_v2, 1.0, 224),
    "EfficientNet-EdgeTpu-S": functools.partial(nets.efficientnet_edgetpu, 1.0, 1.0, 224),
    "EfficientNet-EdgeTpu-M": functools.partial(nets.efficientnet_edgetpu, 1.0, 1.1, 240),
    "Inception v1": nets.inception_v1,
    "SqueezeNet": functools.partial(nets.squeezenet, 224),
    "DenseNet": nets.densenet121,
}
_CORAL_DEVICES = {
    "coral-usb": ("Coral USB Accelerator USB3 Edge TPU", "Coral USB accelerator, Edge TPU, USB 3"),
    "coral-dev-board": ("Coral Dev Board Edge TPU", "Coral Dev Board, Edge TPU"),
}
_CORAL_OTHERS = ("Coral Dev Board embedded CPU (Cortex-A53)",)


def coral(name: str, folder: Path) -> Plan:
    """An Edge TPU; networks of at most 8 MB, which fit its memory."""
    label, title = _CORAL_DEVICES[name]
    found: dict[str, dict[str, float]] = {}
    urls = set()
    for row in rows(folder, "published_model_latencies"):
        if row["model"] in _CORAL and "coral.ai" in row["source_url"]:
            found.setdefault(row["device"], {})[row["model"]] = float(row["latency_ms"])
            urls.add(row["source_url"])
    networks = tuple(Observed(m, m, _CORAL[m](), ms) for m, ms in sorted(found[label].items()))
    return Plan(
        device=device("edgetpu", f"{title} int8", "npu", name=name, runtime="edgetpu",
                      precision="int8"),
        networks=networks,
        file="published_model_latencies",
        chosen=f"device {label}; classifiers of at most 8 million parameters, which its memory "
        "holds; max pooling and concatenation not counted",
        n_rows=len(networks),
        split="each network is left out in turn",
        unstated=("compiler version", "frequency", "variants of DenseNet and SqueezeNet (taken as "
                  "121 and 1.0)"),
        others={other: found[other] for other in _CORAL_OTHERS},
        urls=tuple(sorted(urls)),
    )  # fmt: skip


# Microcontrollers
_TINY = {"ic": nets.tiny_ic, "kws": nets.tiny_kws, "vww": nets.tiny_vww, "ad": nets.tiny_ad}
_TINY_LONG = {"image_classification": "ic", "keyword_spotting": "kws", "visual_wake_words": "vww",
              "anomaly_detection": "ad"}  # fmt: skip
_MCUS = {
    "nucleo-l4r5zi": ("NUCLEO_L4R5ZI", "Nucleo L4R5ZI, Cortex-M4 120 MHz", "l4r5", "9.0"),
    "nucleo-h7a3zi": ("NUCLEO_H7A3ZI_Q", "Nucleo H7A3ZI-Q, Cortex-M7 280 MHz", "h7a3", "9.0.0"),
    "nucleo-u575zi": ("NUCLEO_U575ZI_Q", "Nucleo U575ZI-Q, Cortex-M33 160 MHz", "u575", "9.0"),
}


@functools.cache
def tiny_systems(folder: Path) -> Mapping[str, Mapping[str, Row]]:
    """Closed int8 systems without an accelerator that ran all four networks, by round/org/name."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows(folder, "mlperf_tiny"):
        system, _, last = row["system"].rpartition("/")
        bench = row["bench"] or _TINY_LONG.get(last, last)
        plain = not row["accel"] and "float" not in system and "syntiant" not in system
        if row["division"] == "closed" and plain and "gap9" not in system:
            found.setdefault(f"{row['round']}/{row['org']}/{system}", {})[bench] = row
    return {name: by for name, by in found.items() if set(by) == set(_TINY)}


def _tiny(by: Mapping[str, Row]) -> list[Observed]:
    return [Observed(b, b, _TINY[b](), float(row["latency_ms"])) for b, row in sorted(by.items())]


def _tiny_power(by: Mapping[str, Row]) -> dict[str, Any]:
    """Mean power of a board, which varies little between networks; its error on one left out."""
    found = [float(r["energy_uJ"]) / float(r["energy_mode_latency_ms"]) for r in by.values()]
    errors = [
        abs(statistics.median([*found[:i], *found[i + 1 :]]) / p - 1) for i, p in enumerate(found)
    ]
    return {
        "mean_mw": round(statistics.median(found), 3),
        "error_median": round(statistics.median(errors), 5),
        "error_max": round(max(errors), 5),
        "n": len(found),
        "from": "energy_uJ / energy_mode_latency_ms; each network left out in turn",
    }


@functools.cache
def tiny_shape(folder: Path, but: str) -> Mapping[str, float]:
    """What operators cost on boards other than `but` with the same compiler, up to a factor.

    Those of MLPerf Tiny from X-CUBE-AI 8.1 on, when depthwise convolutions became twice as fast,
    and the MobileNets of STM32H747I-DISCO. Each board's factor and the shares are found in turn.
    """
    systems = {
        name: _tiny(by)
        for name, by in tiny_systems(folder).items()
        if re.match(r"v1.[12]/STMicroelectronics/", name) and but not in name.lower()
    }
    systems["stm32h747"] = list(stm32h747(folder).networks)
    scale = dict.fromkeys(systems, 1.0)
    shape: dict[str, float] = {}
    for _ in range(8):
        stacked = [
            replace(o, latency_ms=scale[name] * o.latency_ms)
            for name, networks in systems.items()
            for o in networks
        ]
        shape = shape_of(stacked)
        shape.pop("network.call", None)
        for name, networks in systems.items():
            ratios = [
                sum(shape.get(f, 0.0) * v for op in o.ops for f, v in features(op)) / o.latency_ms
                for o in networks
            ]
            scale[name] = statistics.median(ratios)
    return shape


def mcu(name: str, folder: Path) -> Plan:
    """A microcontroller of MLPerf Tiny."""
    label, title, chip, version = _MCUS[name]
    systems = tiny_systems(folder)
    key = f"v1.2/STMicroelectronics/{label}"
    return Plan(
        device=device(name, f"{title}, X-CUBE-AI {version} int8", "mcu", runtime="xcubeai",
                      version=version, precision="int8", threads=1),
        networks=tuple(_tiny(systems[key])),
        file="mlperf_tiny",
        chosen=f"{key}; latency_ms; the shares of operators from X-CUBE-AI 8.1 and later on other "
        f"boards (not {chip}) and from STM32H747I-DISCO in published_model_latencies.csv.gz",
        n_rows=4,
        split="each of the four networks is left out of the device's factor in turn; it stays in "
        "what other boards say of the shares of operators",
        unstated=(),
        others={
            k: {b: float(row["latency_ms"]) for b, row in by.items()}
            for k, by in systems.items()
            if chip not in k.lower()
        },
        shape=tiny_shape(folder, chip),
        notes={"power": _tiny_power(systems[key])},
    )  # fmt: skip


def stm32h747(folder: Path) -> Plan:
    """A Cortex-M7 with MobileNets, from ST's model zoo."""
    found, urls = [], set()
    for row in rows(folder, "published_model_latencies"):
        if not row["device"].startswith("STM32H747I-DISCO"):
            continue
        m = re.fullmatch(r"MobileNet (v[12]) ([0-9.]+)( \(flowers 5cls\))?", row["model"])
        assert m is not None, row["model"]  # noqa: S101
        width, r, classes = float(m[2]), int(row["input"]), 5 if m[3] else 1000
        build = nets.mobilenet_v1 if m[1] == "v1" else nets.mobilenet_v2
        group = f"{m[1]}-{width:g}"
        found.append(
            Observed(f"{group}-{r}-{classes}", group, build(width, r, classes),
                     float(row["latency_ms"]))
        )  # fmt: skip
        urls.add(row["source_url"])
    return Plan(
        device=device("stm32h747", "STM32H747I-DISCO, Cortex-M7 400 MHz, STM32Cube.AI 10.0.0 int8",
                      "mcu", runtime="xcubeai", version="10.0.0", precision="int8", threads=1),
        networks=tuple(found),
        file="published_model_latencies",
        chosen="device STM32H747I-DISCO",
        n_rows=len(found),
        split="all networks of one family and width are left out together",
        unstated=(),
        urls=tuple(sorted(urls)),
    )  # fmt: skip


def _plans() -> dict[str, Source]:
    found: dict[str, Source] = {}
    for i, (name, _, _, kind, runtime, *_) in enumerate(_BOARDS):
        for precision in ("fp32", "int8") if kind == "mobile" else ("fp32",):
            found[f"{name}-{runtime}-{precision}"] = functools.partial(board, i, precision)
    for i, (name, _, _, _, precision, threads) in enumerate(_PHONES):
        found[f"{name}-tflite-{precision}-t{threads}"] = functools.partial(phone, i)
    found["galaxy-note10"] = note10
    for name, batch in (("v100", 1), ("v100", 32), ("v100", 64), ("titan-rtx", 32),
                        ("titan-rtx", 64), ("titan-xp", 64), ("rtx2080ti", 64)):  # fmt: skip
        found[f"{name}{f'-b{batch}' if batch > 1 else ''}"] = functools.partial(gpu, name, batch)
    for name, (_, _, _, runtime) in _ACCELERATORS.items():
        end = f"-{runtime}" if runtime != "unstated" else ""
        found[f"{name}-throughput{end}"] = functools.partial(accelerator, name)
    for name in _CORAL_DEVICES:
        found[f"{name}-edgetpu-int8"] = functools.partial(coral, name)
    for name in _MCUS:
        found[f"{name}-xcubeai-int8-t1"] = functools.partial(mcu, name)
    found["stm32h747-xcubeai-int8-t1"] = stm32h747
    return found


PLANS: Mapping[str, Source] = _plans()
"""Every published table by its name."""
