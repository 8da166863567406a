"""AutoKeras: its search for an image classifier, and its best network as TFLite files.

    python tools/comparison/search_autokeras.py --images IMAGES.npz --out FOLDER --minutes 60

Runs in an environment of its own (`tools/comparison/elsewhere.py`), without edgenas. It gets the
training images as our networks take them, and searches plain CNNs, from the one that AutoKeras's
`ImageClassifier` tries first; that one's next two, ResNet-50 and EfficientNet-B7 at 224 pixels, are
too large to be trained on a CPU. Trials are judged on the search split. Writes `model.tflite`,
`model.int8.tflite` (by TensorFlow's converter) and `result.json`. There is no ONNX file: a Keras 3
network comes to onnxruntime only through packages that are not tested here. A search that was
stopped goes on after the last whole epoch; the time since then does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import autokeras as ak
import keras
import numpy as np
import tensorflow as tf
from autokeras.tuners.greedy import Greedy
from autokeras.tuners.task_specific import IMAGE_CLASSIFIER
from keras_tuner.src.engine.tuner_utils import SaveBestEpoch
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

EPOCHS = 20
"""Of a trial, at most."""
STOPPING = {"patience": 10, "min_delta": 1e-4}
"""As AutoKeras stops its trials early, where it trains the best one again afterwards."""
CALIBRATION = 256
"""Training images for the ranges of int8."""


class Budget(keras.callbacks.Callback):
    """Ends the trial, and begins no further one, when the CPU time is spent.

    Callbacks are copied for each trial, so that all of it belongs to the class.
    """

    oracle: Any = None
    """Of the search."""
    minutes = 0.0
    spent = 0.0
    """Minutes of earlier processes."""
    kept: Path
    """Where the minutes of finished epochs are written."""

    @staticmethod
    def used() -> float:
        """CPU-minutes so far."""
        return Budget.spent + time.process_time() / 60

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Looks at the clock: an epoch of a large network can take longer than all of it."""
        if Budget.used() >= Budget.minutes:
            self.model.stop_training = True
            Budget.oracle.max_trials = len(Budget.oracle.trials)

    def on_train_end(self, logs: object = None) -> None:
        """Notes the time."""
        Budget.note()

    @staticmethod
    def note() -> None:
        """Writes the time so far."""
        _write(Budget.kept, json.dumps(Budget.used()))


class Kept(keras.callbacks.BackupAndRestore):
    """Keeps a trial after each epoch, and goes on with one that was stopped.

    Keras keeps weights, optimizer and the number of the epoch; here is what the other callbacks
    saw of earlier epochs, and what the trial is judged by.
    """

    def __init__(self, folder: Path, others: Sequence[keras.callbacks.Callback]) -> None:
        super().__init__(str(folder), double_checkpoint=True)
        self._others = others
        self._path = folder / "epochs.json"
        self._epochs: list[dict[str, float]] = []

    @property
    def history(self) -> dict[str, list[float]]:
        """Loss and metrics by name, of all epochs."""
        return {name: [told[name] for told in self._epochs] for name in self._epochs[0]}

    def on_train_begin(self, logs: object = None) -> None:
        """Brings the trial, and the other callbacks, to where they were."""
        super().on_train_begin(logs)
        if self._path.is_file():
            told = json.loads(self._path.read_text("utf-8"))
            self._epochs = told[: self.model._initial_epoch]
        for epoch, told in enumerate(self._epochs):
            for other in self._others:
                if isinstance(other, keras.callbacks.EarlyStopping):
                    other.on_epoch_end(epoch, told)
                elif isinstance(other, SaveBestEpoch):
                    value = other.objective.get_value(told)
                    if other.objective.better_than(value, other.best_value):
                        other.best_value = value

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps it all."""
        self._epochs.append({name: float(value) for name, value in logs.items()})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _write(self._path, json.dumps(self._epochs))
        super().on_epoch_end(epoch, logs)
        Budget.note()


class FromKnown(Greedy):
    """AutoKeras's greedy search, from the first network of its `ImageClassifier`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(initial_hps=IMAGE_CLASSIFIER[:1], **kwargs)

    def _build_and_fit_model(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        others = kwargs.pop("callbacks")
        kept = Kept(Path(self.get_trial_dir(trial.trial_id)) / "kept", others)
        history = super()._build_and_fit_model(trial, *args, callbacks=[*others, kept], **kwargs)
        history.history = kept.history
        return history


def searched(images: Any, folder: Path, *, seed: int) -> Any:
    """The best network of the search."""
    classes = int(images["train_labels"].max()) + 1

    def split(name: str) -> tuple[Any, Any]:
        labels = np.eye(classes, dtype=np.float32)[images[f"{name}_labels"]]
        return images[f"{name}_images"], labels

    given = ak.ImageInput()
    block = ak.ImageBlock(block_type="vanilla", normalize=False)
    auto = ak.AutoModel(
        given, ak.ClassificationHead()(block(given)), max_trials=1000, tuner=FromKnown,
        directory=str(folder), project_name="trials", overwrite=False, seed=seed,
    )  # fmt: skip
    Budget.oracle = auto.tuner.oracle
    auto.fit(
        *split("train"), epochs=EPOCHS, validation_data=split("search"), batch_size=128,
        callbacks=[keras.callbacks.EarlyStopping(**STOPPING), Budget()], verbose=2,
    )  # fmt: skip
    best = folder / "trials" / "best_model.keras"  # export_model() looks for a file of another name
    return keras.models.load_model(best, custom_objects=ak.CUSTOM_OBJECTS)


def converted(network: Any, sample: Any, *, int8: bool) -> bytes:
    """The network as a TFLite file that takes one image."""
    shape = (1, *sample.shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def call(image: Any) -> Any:
        return network(image, training=False)

    frozen = convert_variables_to_constants_v2(call.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in sample)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text + "\n", "utf-8")
    temporary.replace(path)


def main() -> None:
    """Searches, converts, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="CPU time of the search")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)  # images wait for themselves with one
    Budget.minutes, Budget.kept = arguments.minutes, arguments.out / "minutes.json"
    if Budget.kept.is_file():
        Budget.spent = json.loads(Budget.kept.read_text("utf-8"))
    with np.load(arguments.images) as images:
        network = searched(images, arguments.out, seed=arguments.seed)
        order = np.random.default_rng(arguments.seed).permutation(len(images["train_images"]))
        sample = images["train_images"][order[:CALIBRATION]]
    for name, int8 in (("model.tflite", False), ("model.int8.tflite", True)):
        (arguments.out / name).write_bytes(converted(network, sample, int8=int8))
    result = {
        "schema": "edgenas.bench-frontier-elsewhere/1",
        "name": "autokeras",
        "family": "AutoKeras",
        "params": network.count_params(),
        "n_trials": len(Budget.oracle.trials),
        "cpu_minutes": Budget.used(),
        "threads": arguments.threads,
        "versions": {name: version(name) for name in ("autokeras", "keras", "tensorflow-cpu")},
    }
    _write(arguments.out / "result.json", json.dumps(result, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
