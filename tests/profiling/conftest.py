"""Tiny real models that need no torch, and a device whose times are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edgenas.hardware import Finished
from edgenas.profiling import agent

OnnxMaker = Callable[[str, int], Path]


@pytest.fixture
def make_onnx(tmp_path: Path) -> OnnxMaker:
    """Writes a chain of `n` 1x1 convolutions."""

    def make(name: str, n: int) -> Path:
        import onnx
        from onnx import TensorProto, helper

        c = 8
        weights = np.random.default_rng(n).standard_normal((c, c, 1, 1)).astype("float32")
        nodes = [
            helper.make_node("Conv", [f"x{i}", "w"], [f"x{i + 1}"], name=f"c{i}") for i in range(n)
        ]
        graph = helper.make_graph(
            nodes,
            "chain",
            [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, c, 8, 8])],
            [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [1, c, 8, 8])],
            [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel())],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, str(path))
        return path

    return make


@pytest.fixture
def make_tflite(tmp_path: Path) -> Callable[[str, int], Path]:
    """Writes a chain of `n` RELU operators on int8 or float32 tensors."""

    def make(name: str, n: int, *, int8: bool = False) -> Path:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT()
        model.version = 3
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
        code.version = 2 if int8 else 1
        model.operatorCodes = [code]
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = [], []
        for i in range(n + 1):
            tensor = schema.TensorT()
            tensor.name, tensor.shape = f"t{i}", [1, 8, 8, 4]
            tensor.type = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
            if int8:
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.scale, tensor.quantization.zeroPoint = [0.1], [0]
            graph.tensors.append(tensor)
        for i in range(n):
            operator = schema.OperatorT()
            operator.opcodeIndex, operator.inputs, operator.outputs = 0, [i], [i + 1]
            graph.operators.append(operator)
        graph.inputs, graph.outputs = [0], [n]
        model.subgraphs = [graph]
        model.buffers = [schema.BufferT()]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(bytes(builder.Output()))
        return path

    return make


@dataclass
class OracleDevice:
    """A device that takes as long as each model file says (its text is a number of ms).

    `slow` multiplies the times of the n-th start; `wobble(key, start)` those of one model. Rounds
    from `rounds` on are not measured: the time is up.
    """

    python: str = "python"
    slow: Sequence[float] = (1.0,)
    wobble: Callable[[str, int], float] = lambda key, start: 1.0
    version: str = "1.0"
    rounds: int = 99
    starts: int = 0
    measured: list[str] = field(default_factory=list)

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        return {name: str(path) for name, path in files.items()}

    def run(
        self,
        argv: Sequence[str],
        *,
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> Finished:
        job = json.loads(Path(argv[2]).read_text())
        lines = agent.decode(Path(argv[4]).read_text().splitlines())
        mine = [r for r in lines if r["nonce"] == job["nonce"]]
        done = agent.finished(agent.of_version(mine, self.version))
        factor = self.slow[min(self.starts, len(self.slow) - 1)]
        self.starts += 1

        def emit(record: dict[str, object]) -> None:
            on_line(agent.encode({**record, "nonce": job["nonce"]}))

        emit(
            {
                "type": "start",
                "conditions": {"virtualised": False},
                "runtime_version": self.version,
                "agent_sha256": "0",
                "timer_resolution_ns": 1,
            }
        )
        for key, path in job["models"].items():
            emit({"type": "model", "key": key, "init_ms": 1.0, "first_ms": 1.0})
            for number in range(min(job["rounds"], self.rounds)):
                if (key, number) in done:
                    continue
                self.measured.append(key)
                ms = float(Path(path).read_text()) * factor * self.wobble(path, self.starts)
                ms = ms * (1 + 0.01 * number)  # the first round is the calmest
                emit(
                    {
                        "type": "visit",
                        "key": key,
                        "round": number,
                        "final": True,
                        "contended": False,
                        "median_ms": ms,
                        "p10_ms": ms * 0.99,
                        "p90_ms": ms * 1.05,
                        "n": 10,
                        "spread": 0.01,
                    }
                )
        emit({"type": "end", "complete": True, "conditions": {}})
        return Finished(0, "")


@pytest.fixture
def oracle() -> type[OracleDevice]:
    return OracleDevice
