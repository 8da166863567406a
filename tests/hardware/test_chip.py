from edgenas.hardware import check_name, chip_name, this_chip
from edgenas.hardware.chip import parse_cpuinfo

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx avx2 hypervisor

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx avx2 hypervisor
"""
XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz
flags\t\t: avx avx2 avx512f avx512_vnni amx_int8
"""
RYZEN = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 97
model name\t: AMD Ryzen 9 7950X 16-Core Processor
flags\t\t: avx avx2 avx512f avx512_vnni
"""
PI = """processor\t: 0
Features\t: fp asimd crc32 asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
Features\t: fp asimd crc32 asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def test_chips_are_named_by_model_and_by_what_kernels_are_chosen_on() -> None:
    assert parse_cpuinfo(EPYC, machine="x86_64").name == "amd-epyc-f25m1-avx2"
    assert parse_cpuinfo(XEON, machine="x86_64").name == "intel-xeon-platinum-8488c-f6m143-amx"
    assert parse_cpuinfo(RYZEN, machine="x86_64").name == "amd-ryzen-9-7950x-f25m97-avx512vnni"
    pi = parse_cpuinfo(PI, machine="aarch64")
    assert (pi.name, pi.title) == ("arm-d0b-dotprod", "Raspberry Pi 5 Model B Rev 1.0")
    assert parse_cpuinfo("", machine="arm64", processor="Apple M2").name == "apple-m2"
    assert parse_cpuinfo("", machine="").name == "unknown"


def test_a_virtual_machine_and_the_number_of_processors_are_seen() -> None:
    assert parse_cpuinfo(EPYC, machine="x86_64").virtualised
    assert parse_cpuinfo(EPYC, machine="x86_64").n_cpus == 2
    assert not parse_cpuinfo(XEON, machine="x86_64").virtualised


def test_this_machines_chip_can_name_a_file() -> None:
    assert check_name(chip_name()) == this_chip().name
