"""Small ONNX graphs for tests, and ways to run them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

onnxruntime.set_default_logger_severity(3)


def deployed(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def model_of(nodes, constants, shape, result=(None, None), opset=17, kind=onnx.TensorProto.FLOAT):
    image = helper.make_tensor_value_info("image", kind, shape)
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, result)
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "test", [image], [scores], initializers)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=domains, ir_version=8)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def pictures(n, *shape):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))


def gradient(network, x):
    x = x.clone().requires_grad_()
    scores = network(x)
    return torch.autograd.grad(scores.flatten(1).amax(1).sum(), x)[0]
