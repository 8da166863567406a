"""Devices: what a latency is a latency *of*, and how to reach it."""

from edgenas.hardware.adb import AdbTransport
from edgenas.hardware.chip import Chip, chip_name, this_chip
from edgenas.hardware.device import (
    FORMATS,
    DeviceProfile,
    device_names,
    device_toml,
    load_device,
    load_device_file,
    local_name,
    on_this_chip,
)
from edgenas.hardware.folders import (
    Found,
    Origin,
    also_in,
    check_name,
    find,
    listing,
    search_folders,
    user_folder,
)
from edgenas.hardware.locks import held, place_of
from edgenas.hardware.runtimes import installed_version
from edgenas.hardware.ssh import SshTransport
from edgenas.hardware.transports import (
    LOCAL,
    Connection,
    Finished,
    LocalTransport,
    Transport,
    transport_for,
)

__all__ = [
    "FORMATS",
    "LOCAL",
    "AdbTransport",
    "Chip",
    "Connection",
    "DeviceProfile",
    "Finished",
    "Found",
    "LocalTransport",
    "Origin",
    "SshTransport",
    "Transport",
    "also_in",
    "check_name",
    "chip_name",
    "device_names",
    "device_toml",
    "find",
    "held",
    "installed_version",
    "listing",
    "load_device",
    "load_device_file",
    "local_name",
    "on_this_chip",
    "place_of",
    "search_folders",
    "this_chip",
    "transport_for",
    "user_folder",
]
