"""Graph: an ONNX graph under construction, its large weights outside of it until a session asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from hearth_backends.weights.reader import TensorReader

MICROSOFT = "com.microsoft"
OPSET = 21
MICROSOFT_OPSET = 1
IR_VERSION = 10

Arrays = tuple[NDArray[Any], ...]
Make = Callable[[TensorReader], Arrays]
Dim = int | str


@dataclass(frozen=True, slots=True)
class Weight:
    """One large initializer."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Place(NamedTuple):
    """Where an initializer's bytes begin: a file's name, and the offset in it."""

    file: str
    offset: int


HANDED_OVER = Place("handed-over", 0)
"""Of initializers that a session gets as arrays."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Initializers that are made together, and how they are made from the model's tensors."""

    weights: tuple[Weight, ...]
    make: Make
    is_lasting: bool = True  # whether it is the same for every stage that has these layers

    @property
    def n_bytes(self) -> int:
        return sum(weight.n_bytes for weight in self.weights)


class Graph:
    """Nodes in the order in which they are added; names are made up as they come."""

    def __init__(self, float_type: DTypeLike = np.float32) -> None:
        self.float_type = np.dtype(float_type)
        self.bundles: list[Bundle] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._outside: dict[str, Weight] = {}
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: DTypeLike, shape: tuple[Dim, ...]) -> str:
        """An input of the graph; asked for again it is the same."""
        if name not in self._inputs:
            self._inputs[name] = helper.make_tensor_value_info(name, _onnx_type(dtype), shape)
        return name

    def output(self, name: str, dtype: DTypeLike, shape: tuple[Dim, ...]) -> None:
        """A value that some node gives is an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, _onnx_type(dtype), shape))

    def has(self, name: str) -> bool:
        """Whether there is an initializer of that name."""
        return name in self._initializers or name in self._outside

    def constant(self, name: str, value: Any, dtype: DTypeLike) -> str:
        """A small value inside the graph; asked for again it is the same."""
        if name not in self._initializers:
            array = np.asarray(value, dtype)
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def bundle(self, make: Make, *weights: Weight, is_lasting: bool = True) -> list[str]:
        """Large values that `make` gives, together, when they are wanted; their names."""
        self._outside |= {weight.name: weight for weight in weights}
        self.bundles.append(Bundle(weights, make, is_lasting))
        return [weight.name for weight in weights]

    @overload
    def node(
        self,
        op: str,
        inputs: list[str],
        *,
        domain: str = ...,
        n_outputs: Literal[1] = 1,
        **attributes: Any,
    ) -> str: ...
    @overload
    def node(
        self, op: str, inputs: list[str], *, domain: str = ..., n_outputs: int, **attributes: Any
    ) -> list[str]: ...
    def node(
        self,
        op: str,
        inputs: list[str],
        *,
        domain: str = "",
        n_outputs: int = 1,
        **attributes: Any,
    ) -> str | list[str]:
        """Add a node; the name of its output, or the names of all."""
        stem = f"{op}_{len(self._nodes)}"
        outputs = [stem, *(f"{stem}_{i}" for i in range(1, n_outputs))]
        self.named_node(op, inputs, outputs, domain=domain, **attributes)
        return outputs[0] if n_outputs == 1 else outputs

    def named_node(
        self,
        op: str,
        inputs: list[str],
        outputs: list[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Add a node with outputs of given names; an empty one is not computed."""
        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes)
        )

    def serialized(self, places: Mapping[str, Place]) -> bytes:
        """The model as ONNX Runtime takes it; weights without a place are handed over."""
        outside = [_external(w, places.get(w.name, HANDED_OVER)) for w in self._outside.values()]
        graph = helper.make_graph(
            self._nodes,
            "decoder",
            list(self._inputs.values()),
            self._outputs,
            [*self._initializers.values(), *outside],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        data: bytes = model.SerializeToString()
        return data


def _external(weight: Weight, place: Place) -> onnx.TensorProto:
    proto = TensorProto(name=weight.name, data_type=_onnx_type(weight.dtype), dims=weight.shape)
    proto.data_location = TensorProto.EXTERNAL
    where = {"location": place.file, "offset": place.offset, "length": weight.n_bytes}
    for key, value in where.items():
        proto.external_data.add(key=key, value=str(value))
    return proto


def _onnx_type(dtype: DTypeLike) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
