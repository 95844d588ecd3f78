"""Adapters: one short file for each kind of real teacher; each function returns a `Teacher`.

An adapter owns what its model needs (flattening, device, micro-batches) and lets nothing out but
class indices.
"""

from db3kd.teachers.function import function
from db3kd.teachers.onnx import onnx
from db3kd.teachers.quantised import quantised
from db3kd.teachers.sklearn import sklearn
from db3kd.teachers.torch_module import torch_module

__all__ = ["function", "onnx", "quantised", "sklearn", "torch_module"]
