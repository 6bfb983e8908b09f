"""Models for other runtimes: ONNX files that say what they are and prove it before they are published."""
