"""What runs a model where it is deployed: torch, ONNX Runtime, OpenVINO, the sparse engine."""
