"""Which chip this machine has, as the operating system tells."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_X86_LEVELS = (
    ("amx_int8", "amx"),
    ("avx512_vnni", "avx512vnni"),
    ("avx512f", "avx512"),
    ("avx_vnni", "avxvnni"),
    ("avx2", "avx2"),
    ("avx", "avx"),
)
_ARM_LEVELS = (("sme", "sme"), ("sve", "sve"), ("i8mm", "i8mm"), ("asimddp", "dotprod"))
_ARM_IMPLEMENTERS = {
    "0x41": "arm",
    "0x48": "hisilicon",
    "0x51": "qualcomm",
    "0x61": "apple",
    "0xc0": "ampere",
}
_VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
_NOISE = re.compile(
    r"\((r|tm|c)\)|\bcpu\b|@.*|\bprocessor\b|\b\d+-core\b|\bwith\b.*|\bgeneration\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Chip:
    """A processor: a name for files, a title for people."""

    name: str
    title: str
    n_cpus: int
    virtualised: bool


@functools.cache
def this_chip() -> Chip:
    """The processor of the machine at hand."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, machine=platform.machine(), processor=platform.processor())


def chip_name() -> str:
    """The name under which tables measured on this machine's chip are shipped."""
    return this_chip().name


def parse_cpuinfo(text: str, *, machine: str, processor: str = "") -> Chip:
    """The chip that a `/proc/cpuinfo` describes.

    Vendors hide the model from virtual machines ("AMD EPYC"), so that family, model and the level
    of the instruction set, on which kernels are chosen, belong to the name.
    """
    blocks = [_fields(block) for block in text.split("\n\n") if block.strip()]
    first = blocks[0] if blocks else {}
    last = blocks[-1] if blocks else {}  # Raspberry Pi OS puts the board's model there
    flags = set((first.get("flags") or first.get("Features") or "").split())
    n_cpus = sum("processor" in b for b in blocks) or 1
    virtualised = "hypervisor" in flags
    if "model name" in first and "cpu family" in first:
        title = first["model name"]
        vendor = _VENDORS.get(first.get("vendor_id", ""), "")
        slug = _slug(_NOISE.sub(" ", title))
        if vendor and not slug.startswith(vendor):
            slug = f"{vendor}-{slug}"
        level = next((name for flag, name in _X86_LEVELS if flag in flags), "sse")
        name = f"{slug}-f{first['cpu family']}m{first.get('model', '0')}-{level}"
        return Chip(name, title, n_cpus, virtualised)
    if "CPU part" in first:
        maker = _ARM_IMPLEMENTERS.get(
            first.get("CPU implementer", ""), first.get("CPU implementer", "")
        )
        parts = sorted({b["CPU part"].removeprefix("0x") for b in blocks if "CPU part" in b})
        level = next((name for flag, name in _ARM_LEVELS if flag in flags), "neon")
        board = last.get("Model") or last.get("Hardware") or ""
        name = _slug(f"{maker}-{'-'.join(parts)}-{level}")
        return Chip(name, board or f"{maker} {' + '.join(parts)}", n_cpus, virtualised)
    name = _slug(processor) or _slug(machine) or "unknown"
    return Chip(name, processor or machine or "unknown", n_cpus, virtualised)


def _fields(block: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
