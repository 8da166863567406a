"""Networks as files for the runtimes: ONNX and TFLite, float and int8, verified."""
