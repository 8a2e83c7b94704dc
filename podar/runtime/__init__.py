"""The sparse engine's Python face: `podar.accelerate`, the torch operator, ONNX files. The kernels are in native/."""

from podar.runtime.accelerating import Accelerated, Acceleration, accelerate

__all__ = ["Accelerated", "Acceleration", "accelerate"]
