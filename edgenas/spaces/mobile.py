"""`mobile/1`: a MobileNetV3-like once-for-all family.

Elastic are the input resolution and, for each stage, the block's kind (inverted residual with a
depthwise convolution, a plain convolution, or fused with a dense one), the width, the depth, and
for each block the kernel and the expansion. Activation and squeeze-excite are settings of the
family: ReLU6 without squeeze-excite, the default, is safe for int8 and for microcontrollers.

Blocks: MobileNetV2 (arXiv:1801.04381), MobileNetV3 (arXiv:1905.02244), Fused-MBConv of
EfficientNetV2 (arXiv:2104.00298), plain convolutions as in VGG (arXiv:1409.1556); elasticity:
once-for-all (arXiv:1908.09791).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from edgenas.errors import SpecError, nearest
from edgenas.spaces.architecture import Architecture, Choice, split_line
from edgenas.spaces.ops import ACTIVATIONS, Lowering, OpSpec, Shape, chain, conv
from edgenas.spaces.space import Place, read_choice

NAME = "mobile/1"
KINDS = ("inverted", "plain", "fused")

Variant = Literal["int8", "full"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of blocks with one width; the first block has the stride."""

    stride: int
    widths: tuple[int, ...]
    """Output channels."""
    depths: tuple[int, ...]
    """Numbers of blocks."""
    kernels: tuple[int, ...] = (3, 5, 7)
    """Of the depthwise convolution; plain and fused blocks always have the smallest."""
    expands: tuple[int, ...] = (2, 3, 4)
    """Hidden channels as a multiple of the block's input channels; a plain block has none."""
    kinds: tuple[str, ...] = ("inverted",)

    def __post_init__(self) -> None:
        for name, most in (("widths", 4096), ("depths", 32), ("kernels", 31), ("expands", 16)):
            _check_ascending(f"stage: {name}", getattr(self, name), 1, most)
        if any(k % 2 == 0 for k in self.kernels) or self.stride not in (1, 2):
            raise SpecError(
                f"stage: kernels {self.kernels} must be odd, stride {self.stride} 1 or 2"
            )
        if not self.kinds or self.kinds != tuple(k for k in KINDS if k in self.kinds):
            raise SpecError(f"stage: kinds {self.kinds} must be some of {KINDS}, in this order")


@dataclass(frozen=True, slots=True)
class MobileSpace:
    """The family with its choices, for images of `in_channels` and for `n_classes`.

    Genes: `r`; for stage i `s<i>.kind`, `s<i>.width`, `s<i>.depth`; for its block j
    `s<i>.<j>.kernel` (of inverted blocks) and `s<i>.<j>.expand` (not of plain ones). A gene with
    one value is none.
    """

    resolutions: tuple[int, ...]
    stages: tuple[Stage, ...]
    stem_width: int
    head_width: int
    in_channels: int = 3
    n_classes: int = 10
    stem_stride: int = 2
    activation: str = "relu6"
    squeeze_excite: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= 16:
            raise SpecError(f"{NAME}: {len(self.stages)} stages; 1 to 16 are possible")
        _check_ascending(f"{NAME}: resolutions", self.resolutions, 8, 2048)
        if not (1 <= self.stem_width <= 4096 and 1 <= self.head_width <= 8192):
            raise SpecError(
                f"{NAME}: stem_width {self.stem_width} must lie in 1 to 4096, "
                f"head_width {self.head_width} in 1 to 8192"
            )
        if self.stem_stride not in (1, 2):
            raise SpecError(f"{NAME}: stem_stride {self.stem_stride} must be 1 or 2")
        if self.activation not in ACTIVATIONS:
            raise SpecError(
                f"{NAME}: activation {self.activation!r}; {nearest(self.activation, ACTIVATIONS)}"
            )
        if self.in_channels < 1 or self.n_classes < 2:
            raise SpecError(
                f"{NAME}: {self.in_channels} channels, {self.n_classes} classes: "
                "at least 1 channel and 2 classes are needed"
            )

    @property
    def name(self) -> str:
        """Name and version of the family."""
        return NAME

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over the whole setting."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def genes(self) -> Mapping[str, tuple[Choice, ...]]:
        """Every choice with more than one value."""
        return _genes(self)

    @property
    def size(self) -> int:
        """The number of distinct architectures."""
        total = len(self.resolutions)
        for s in self.stages:
            blocks = 0
            for kind in s.kinds:
                options = len(s.kernels) if kind == "inverted" else 1
                options *= len(s.expands) if kind != "plain" else 1
                blocks += sum(options**depth for depth in s.depths)
            total *= blocks * len(s.widths)
        return total

    def architecture(self, params: Mapping[str, Choice]) -> Architecture:
        """The canonical architecture; inactive choices are ignored and may be missing."""
        genes = self.genes
        if unknown := sorted(set(params) - set(genes)):
            raise SpecError(f"{NAME}: no choice {unknown[0]!r}; {nearest(unknown[0], genes)}")
        choices: list[tuple[str, Choice]] = []
        for name, value, allowed in self._active(params):
            if len(allowed) == 1:
                continue
            if value is None:
                raise SpecError(f"{NAME}: choice {name!r} is missing; one of {allowed}")
            if value not in allowed or type(value) is not type(allowed[0]):  # True == 1 == 1.0
                raise SpecError(f"{NAME}: {name}={value!r} is not one of {allowed}")
            choices.append((name, value))
        return Architecture(NAME, tuple(choices))

    def parse(self, line: str) -> Architecture:
        """The architecture that `line` (its `str`) names."""
        family, texts = split_line(line)
        if family != NAME:
            raise SpecError(f"architecture {line!r} belongs to {family!r}, not to {NAME!r}")
        genes = self.genes
        params: dict[str, Choice] = {}
        for name, text in texts.items():
            value = read_choice(text, genes.get(name, ()))
            if value is None:
                raise SpecError(f"architecture {line!r}: {name}={text} is no choice of this space")
            params[name] = value
        return self.architecture(params)

    def sample(self, rng: random.Random) -> Architecture:
        """A random architecture, every gene drawn uniformly."""
        return self.architecture({n: rng.choice(values) for n, values in self.genes.items()})

    def smallest(self) -> Architecture:
        """Every choice at its cheapest."""
        return self.architecture({name: values[0] for name, values in self.genes.items()})

    def largest(self) -> Architecture:
        """Every choice at its dearest."""
        return self.architecture({name: values[-1] for name, values in self.genes.items()})

    def in_chw(self, arch: Architecture) -> Shape:
        """Shape of the input image."""
        r = self.resolution(arch)
        return self.in_channels, r, r

    def resolution(self, arch: Architecture) -> int:
        """Height and width of the input image."""
        return int(arch.params.get("r", self.resolutions[0]))

    def lower(self, arch: Architecture) -> Lowering:
        """Stem, blocks, head; unit names are `stem`, `s<i>.<j>`, `head`.

        Raises:
            SpecError: where `arch` is none of this space's own architectures.
        """
        if arch.space != NAME or self.architecture(arch.params) != arch:
            raise SpecError(f"{str(arch)!r} is no architecture of this {NAME} space")
        found = ((place.name, place.unit(arch.params)) for place in self.places())
        return chain(self.in_chw(arch), [(name, op) for name, op in found if op is not None])

    def places(self) -> tuple[Place, ...]:
        """`stem`, `s<i>.<j>`, `head`."""
        return _places(self)

    def units(self) -> tuple[OpSpec, ...]:
        """All distinct units, in a fixed order."""
        return _units(self)

    def to_table(self) -> dict[str, object]:
        """The setting as a table of a run file."""
        return {"family": NAME, **asdict(self)}

    def _active(
        self, params: Mapping[str, Choice]
    ) -> Iterator[tuple[str, Choice | None, tuple[Choice, ...]]]:
        """Active choices as (name, value, allowed); a choice with one value has that value."""

        def read(name: str, allowed: tuple[Choice, ...]) -> Choice | None:
            return params.get(name) if len(allowed) > 1 else allowed[0]

        yield "r", read("r", self.resolutions), self.resolutions
        for i, stage in enumerate(self.stages, 1):
            kind = read(f"s{i}.kind", stage.kinds)
            depth = read(f"s{i}.depth", stage.depths)
            yield f"s{i}.kind", kind, stage.kinds
            yield f"s{i}.width", read(f"s{i}.width", stage.widths), stage.widths
            yield f"s{i}.depth", depth, stage.depths
            for j in range(1, int(depth or 0) + 1):
                if kind == "inverted":
                    name = f"s{i}.{j}.kernel"
                    yield name, read(name, stage.kernels), stage.kernels
                if kind != "plain":
                    name = f"s{i}.{j}.expand"
                    yield name, read(name, stage.expands), stage.expands

    def _stem(self, r: int) -> OpSpec:
        return conv(
            self.in_channels, self.stem_width, r, r, 3, s=self.stem_stride, act=self.activation
        )

    def _block(
        self, kind: str, in_chw: Shape, width: int, kernel: int, expand: int, stride: int
    ) -> OpSpec:
        cin, h, w = in_chw
        if kind == "plain":
            return conv(cin, width, h, w, kernel, s=stride, act=self.activation)
        hidden = cin * expand
        return OpSpec.of(
            kind,
            act=self.activation,
            cin=cin,
            hidden=hidden,
            cout=width,
            h=h,
            w=w,
            k=kernel,
            s=stride,
            se=squeezed(hidden) if self.squeeze_excite else 0,
            skip=int(stride == 1 and cin == width),
        )

    def _head(self, in_chw: Shape) -> OpSpec:
        c, h, w = in_chw
        return OpSpec.of(
            "head",
            act=self.activation,
            cin=c,
            hidden=self.head_width,
            cout=self.n_classes,
            h=h,
            w=w,
        )


@functools.lru_cache(maxsize=64)
def _genes(space: MobileSpace) -> Mapping[str, tuple[Choice, ...]]:
    genes: dict[str, tuple[Choice, ...]] = {"r": space.resolutions}
    for i, stage in enumerate(space.stages, 1):
        genes |= {
            f"s{i}.kind": stage.kinds,
            f"s{i}.width": stage.widths,
            f"s{i}.depth": stage.depths,
        }
        for j in range(1, stage.depths[-1] + 1):
            genes[f"s{i}.{j}.kernel"] = stage.kernels
            genes[f"s{i}.{j}.expand"] = stage.expands
    return MappingProxyType({name: values for name, values in genes.items() if len(values) > 1})


@functools.lru_cache(maxsize=64)
def _places(space: MobileSpace) -> tuple[Place, ...]:
    def place(
        name: str,
        choices: Mapping[str, tuple[Choice, ...]],
        build: Callable[[Mapping[str, Choice]], OpSpec | None],
    ) -> Place:
        first = {gene: values[0] for gene, values in choices.items()}
        elastic = tuple(gene for gene, values in choices.items() if len(values) > 1)

        @functools.cache
        def built(values: tuple[Choice | None, ...]) -> OpSpec | None:
            told = {n: v for n, v in zip(elastic, values, strict=True) if v is not None}
            return build({**first, **told})

        return Place(name, elastic, lambda params: built(tuple(map(params.get, elastic))))

    def block(i: int, j: int, strides: tuple[int, ...]) -> Place:
        stage, own, before = space.stages[i - 1], f"s{i}.{j}", f"s{i - 1}.width"
        choices: dict[str, tuple[Choice, ...]] = {
            "r": space.resolutions,
            f"s{i}.kind": stage.kinds,
            f"s{i}.width": stage.widths,
            f"{own}.kernel": stage.kernels,
            f"{own}.expand": stage.expands,
        }
        if j == 1 and i > 1:
            choices[before] = space.stages[i - 2].widths
        if j > stage.depths[0]:
            choices[f"s{i}.depth"] = stage.depths

        def build(v: Mapping[str, Choice]) -> OpSpec | None:
            if j > int(v.get(f"s{i}.depth", stage.depths[0])):
                return None
            kind, width = str(v[f"s{i}.kind"]), int(v[f"s{i}.width"])
            cin = width if j > 1 else int(v.get(before, space.stem_width))
            h = _reduced(int(v["r"]), strides)
            return space._block(
                kind,
                (cin, h, h),
                width,
                int(v[f"{own}.kernel"]) if kind == "inverted" else stage.kernels[0],
                int(v[f"{own}.expand"]),
                stage.stride if j == 1 else 1,
            )

        return place(own, choices, build)

    sizes: dict[str, tuple[Choice, ...]] = {"r": space.resolutions}
    found = [place("stem", sizes, lambda v: space._stem(int(v["r"])))]
    strides: tuple[int, ...] = (space.stem_stride,)
    for i, stage in enumerate(space.stages, 1):
        for j in range(1, stage.depths[-1] + 1):
            found.append(block(i, j, strides))
            strides = (*strides, stage.stride) if j == 1 else strides
    last = f"s{len(space.stages)}.width"

    def head(v: Mapping[str, Choice]) -> OpSpec:
        h = _reduced(int(v["r"]), strides)
        return space._head((int(v[last]), h, h))

    return (*found, place("head", {**sizes, last: space.stages[-1].widths}, head))


@functools.lru_cache(maxsize=64)
def _units(space: MobileSpace) -> tuple[OpSpec, ...]:
    genes = space.genes
    found: dict[OpSpec, None] = {}
    for place in space.places():
        for values in itertools.product(*(genes[gene] for gene in place.genes)):
            op = place.unit(dict(zip(place.genes, values, strict=True)))
            if op is not None:
                found[op] = None
    return tuple(found)


def _reduced(size: int, strides: Sequence[int]) -> int:
    """Height or width of a map after these strides; each rounds up."""
    for stride in strides:
        size = -(-size // stride)
    return size


def squeezed(hidden: int) -> int:
    """Bottleneck of squeeze-excite: a quarter, a multiple of 8, at least 8 (arXiv:1905.02244)."""
    return max(8, math.ceil(hidden / 32) * 8)


def default_space(
    *, image_size: int, in_channels: int, n_classes: int, variant: Variant = "int8"
) -> MobileSpace:
    """The family's own choices for images of about `image_size` pixels.

    `variant` "int8" has ReLU6 and no squeeze-excite; "full" has hard-swish and squeeze-excite.
    """
    if image_size < MEDIUM.resolutions[0]:
        space = SMALL
    else:
        space = MEDIUM if image_size <= 112 else LARGE
        fitting = tuple(r for r in space.resolutions if r <= image_size)
        space = replace(space, resolutions=fitting or space.resolutions[:1])
    space = replace(space, in_channels=in_channels, n_classes=n_classes)
    if variant == "full":
        space = replace(space, activation="hswish", squeeze_excite=True)
    return space


def space_for(
    table: Mapping[str, Any], *, image_size: int, in_channels: int, n_classes: int
) -> MobileSpace:
    """The default space for these images, with the settings of `table` in place of its own.

    Raises:
        SpecError: see `from_table`.
    """
    default = default_space(image_size=image_size, in_channels=in_channels, n_classes=n_classes)
    settings = {**default.to_table(), **table}
    return from_table(settings, in_channels=in_channels, n_classes=n_classes)


def from_table(table: Mapping[str, Any], *, in_channels: int, n_classes: int) -> MobileSpace:
    """The space that a whole `[space]` table describes; `to_table` writes such a one.

    Raises:
        SpecError: for unknown, missing or ill-typed keys, all at once, with the nearest known one;
            for values out of range; where the data has other channels or classes.
    """
    data = {"in_channels": in_channels, "n_classes": n_classes}
    settings = {key: value for key, value in table.items() if key != "family"}
    values, problems = _read_fields("space", {**data, **settings}, MobileSpace)
    problems += [
        f"space.{key} is {values[key]}, but the data has {found}"
        for key, found in data.items()
        if values.get(key, found) != found
    ]
    stages: list[Stage] = []
    for i, stage in enumerate(values.get("stages", ()), 1):
        where = f"space.stages[{i}]"
        parts, wrong = _read_fields(where, stage, Stage)
        problems += wrong
        if not wrong:
            try:
                stages.append(Stage(**parts))
            except SpecError as error:
                problems.append(f"{where}: {error}")
    if problems:
        raise SpecError("; ".join(problems))
    return MobileSpace(**{**values, "stages": tuple(stages)})


_TYPES: Mapping[str, tuple[type, str]] = {  # by annotation
    "int": (int, "an integer"),
    "str": (str, "text"),
    "bool": (bool, "true or false"),
    "tuple[int, ...]": (int, "a list of integers"),
    "tuple[str, ...]": (str, "a list of texts"),
    "tuple[Stage, ...]": (dict, "a list of tables"),
}


def _read_fields(
    where: str, table: Mapping[str, Any], owner: type[MobileSpace | Stage]
) -> tuple[dict[str, Any], list[str]]:
    """The fields of `owner` that `table` sets, lists as tuples, and what is wrong with the rest."""
    known = {field.name: field for field in fields(owner)}
    values: dict[str, Any] = {}
    problems = [
        f"{where}.{name} is missing"
        for name, field in known.items()
        if field.default is MISSING and name not in table
    ]
    for name, value in table.items():
        if name not in known:
            problems.append(f"{where}.{name}: unknown key; {nearest(str(name), known)}")
            continue
        annotation = str(known[name].type)
        wanted, words = _TYPES[annotation]
        many = annotation.startswith("tuple")
        items = value if many and isinstance(value, list | tuple) else [value]
        # exact types: True is no width, although it is an int
        if many is isinstance(value, list | tuple) and all(type(i) is wanted for i in items):
            values[name] = tuple(items) if many else value
        else:
            problems.append(f"{where}.{name}: {value!r} is not {words}")
    return values, problems


def _check_ascending(what: str, values: tuple[int, ...], least: int, most: int) -> None:
    if not values or list(values) != sorted(set(values)) or not least <= values[0] <= values[-1]:
        raise SpecError(f"{what} {values} must be ascending, from {least} up, not empty")
    if values[-1] > most:
        raise SpecError(f"{what} {values} must not exceed {most}")


_BOTH = ("inverted", "fused")

SMALL = MobileSpace(
    resolutions=(24, 28),
    stem_width=12,
    stem_stride=1,
    head_width=192,
    stages=(
        Stage(2, widths=(16, 20), depths=(1, 2), expands=(2, 3, 4), kinds=_BOTH),
        Stage(2, widths=(32, 36, 40), depths=(2, 3), expands=(2, 3), kinds=_BOTH),
        Stage(1, widths=(48, 52, 56), depths=(2, 3, 4), kernels=(3, 5), expands=(2, 3, 4)),
        Stage(2, widths=(64, 80, 96), depths=(2, 3), kernels=(3, 5), expands=(2, 3, 4)),
    ),
)
"""For images of about 28 pixels."""

MEDIUM = MobileSpace(
    resolutions=(48, 64, 80, 96),
    stem_width=16,
    stem_stride=2,
    head_width=320,
    stages=(
        Stage(2, widths=(24, 32), depths=(1, 2, 3), expands=(2, 3, 4), kinds=_BOTH),
        Stage(2, widths=(40, 48), depths=(1, 2, 3), expands=(2, 3, 4), kinds=_BOTH),
        Stage(2, widths=(80, 96), depths=(1, 2, 3), expands=(2, 3, 4)),
        Stage(1, widths=(112, 128), depths=(1, 2, 3), expands=(2, 3, 4)),
    ),
)
"""For images of about 64 to 96 pixels."""

LARGE = MobileSpace(
    resolutions=(128, 160, 192, 224),
    stem_width=16,
    stem_stride=2,
    head_width=960,
    stages=(
        Stage(2, widths=(24, 32), depths=(2, 3, 4), expands=(3, 4, 6), kinds=_BOTH),
        Stage(2, widths=(40, 48), depths=(2, 3, 4), expands=(3, 4, 6), kinds=_BOTH),
        Stage(2, widths=(80, 96), depths=(2, 3, 4), expands=(3, 4, 6)),
        Stage(1, widths=(112, 136), depths=(2, 3, 4), expands=(3, 4, 6)),
        Stage(2, widths=(160, 192), depths=(2, 3, 4), expands=(3, 4, 6)),
    ),
)
"""For images of about 128 to 224 pixels."""
