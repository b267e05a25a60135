"""ONNX, for onnxruntime, browsers, and every runtime that takes standard operators."""
