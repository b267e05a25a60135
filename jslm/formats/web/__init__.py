"""A folder that opens the model in a browser's tab, by onnxruntime-web."""
