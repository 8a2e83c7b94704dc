"""The sparse engine's Python face: `podar.accelerate`, the torch operator, ONNX files. The kernels are in native/."""

from podar.engine.accelerating import Accelerated, Acceleration, accelerate
from podar.engine.onnx_accelerating import AcceleratedFile

__all__ = ["Accelerated", "AcceleratedFile", "Acceleration", "accelerate"]
