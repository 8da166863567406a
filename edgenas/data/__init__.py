"""Data sets in three splits (train, search, test), held as uint8, and how images are prepared."""

from edgenas.data.devices import device, keep_memory, threads
from edgenas.data.folder import unlabelled_files, unlabelled_images
from edgenas.data.images import DataSet, Images, Unlabelled, class_weights, data_set, imbalance
from edgenas.data.load import SOURCES, assemble, estimate, load_data
from edgenas.data.memory import Estimate
from edgenas.data.sources import Parts, Request, Source, licence_of
from edgenas.data.transforms import (
    POLICIES,
    RESIZE,
    Policy,
    augment,
    policy_for,
    prepare,
    resize,
)

__all__ = [
    "POLICIES",
    "RESIZE",
    "SOURCES",
    "DataSet",
    "Estimate",
    "Images",
    "Parts",
    "Policy",
    "Request",
    "Source",
    "Unlabelled",
    "assemble",
    "augment",
    "class_weights",
    "data_set",
    "device",
    "estimate",
    "imbalance",
    "keep_memory",
    "licence_of",
    "load_data",
    "policy_for",
    "prepare",
    "resize",
    "threads",
    "unlabelled_files",
    "unlabelled_images",
]
