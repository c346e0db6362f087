"""ONNX Runtime: decoder graphs built here from a model's own weights."""
