"""ONNX, for onnxruntime, browsers, and every runtime that takes standard operators."""

from __future__ import annotations

from jslm.formats.onnx.folder import OnnxModel, is_onnx, read_folder
from jslm.formats.onnx.own_runtime import OwnCache, OwnDecoder, open_decoder
from jslm.formats.onnx.runtime import OnnxCache, OnnxDecoder

__all__ = ["OnnxCache", "OnnxDecoder", "OnnxModel", "OwnCache", "OwnDecoder", "is_onnx", "open_decoder", "read_folder"]
