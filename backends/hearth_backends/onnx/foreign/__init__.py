"""Decoders whose ONNX graphs were made elsewhere: how they are fed, what they can do, and how they are run."""
