"""The layers of torch and Keras: the default initializer of each parameter, and a better one.

Both are looked up by the layer's class in the framework (:attr:`fastinit.Parameter.layer`) and the parameter's role in
that class. Names of the model's own classes and parameters do not matter. A parameter that a model's author added to a
layer has no row.

>>> import fastinit
>>> weight = fastinit.Parameter("up.weight", (64, 128), layer="Linear", activation="relu")
>>> default_of(weight) == fastinit.torch_default_uniform(layout="OI...")
True
>>> suited(weight).title
'scaled for relu'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from fastinit.advice.activations import PRELU_SLOPE
from fastinit.advice.recommending import recommend
from fastinit.composites import Blocks, ZeroRow
from fastinit.initializers import Constant, Initializer, Normal, Ones, Uniform, VarianceScaling, Zeros
from fastinit.models.rules import GATES, Chosen, Parameter
from fastinit.presets import glorot_normal, glorot_uniform, torch_default_uniform
from fastinit.structured import Orthogonal

__all__ = ["KERAS", "SUITED", "TORCH_LAYERS", "Row", "default_of", "is_linear_map", "is_table", "row_of", "suited"]

ZERO, ONE = Zeros(), Ones()
# index of the LSTM's forget gate; torch and Keras order the gates i, f, g, o
FORGET: Final = 1

CONVOLUTIONS = "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d"
# output layer of torch.nn.MultiheadAttention: a Linear whose bias is set to 0
OUTPUT = "NonDynamicallyQuantizableLinear"
NORMS = (
    "LayerNorm RMSNorm GroupNorm BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm InstanceNorm1d InstanceNorm2d "
    "InstanceNorm3d"
)
RECURRENT, LSTM = "RNN LSTM GRU RNNCell LSTMCell GRUCell", "LSTM LSTMCell"
NUMBERED = r"(_l\d+(_reverse)?)?"
KERAS_CONVOLUTIONS = (
    "Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose DepthwiseConv1D DepthwiseConv2D "
    "SeparableConv1D SeparableConv2D"
)
KERAS_LINEAR = f"Dense EinsumDense {KERAS_CONVOLUTIONS}"
KERAS_KERNEL = "kernel|depthwise_kernel|pointwise_kernel"
KERAS_NORMS = "BatchNormalization LayerNormalization GroupNormalization RMSNormalization"
KERAS_RECURRENT, KERAS_LSTM = "SimpleRNNCell LSTMCell GRUCell ConvLSTMCell", "LSTMCell ConvLSTMCell"
TABLES: Final = frozenset({"Embedding", "EmbeddingBag"})

# torch's fans are always size(1) and size(0) times the receptive field; Keras's assume the layout IO
TORCH_FANS: Final[dict[str, Any]] = {"layout": "OI..."}
KERAS_FANS: Final[dict[str, Any]] = {"layout": "...IO"}

Making = Initializer | Callable[[Parameter], Initializer | Chosen | None]


class Row(NamedTuple):
    """The initializer for a parameter's role in some layers of a framework.

    Parameters
    ----------
    layers : frozenset of str
        The framework's classes.
    role : re.Pattern
        Pattern that must match the whole role.
    making : initializer or callable
        The initializer, or a function of the parameter that returns an initializer, a Chosen, or None.
    title : str
        Title in records.
    is_linear : bool
        Whether the parameter is the weight of a linear map.

    Examples
    --------
    >>> import fastinit
    >>> row_of(SUITED, fastinit.Parameter("norm.bias", (3,), layer="LayerNorm")).title
    'norm bias'
    """

    layers: frozenset[str]
    role: re.Pattern[str]
    making: Making
    title: str
    is_linear: bool = False

    def chosen(self, parameter: Parameter) -> Chosen | None:
        """The parameter's initializer and title; None if unknown."""
        made = self.making if isinstance(self.making, Initializer) else self.making(parameter)
        return Chosen(made, self.title) if isinstance(made, Initializer) else made


def _rows(*rows: tuple[Any, ...]) -> tuple[Row, ...]:
    return tuple(Row(frozenset(layers.split()), re.compile(role), *rest) for layers, role, *rest in rows)


def _padded(rows: Initializer, parameter: Parameter) -> Initializer:
    return rows if parameter.zero_row is None else ZeroRow(rows, parameter.zero_row)


# Better initializers


def _scaled(parameter: Parameter) -> Chosen | None:
    """Scaled by the true fans and the following activation: Glorot, He, LeCun, or LeCun times the activation's gain."""
    if parameter.layout is None or len(parameter.shape) < 2:
        return None
    found = parameter.activation
    advice = recommend(found, negative_slope=parameter.negative_slope, **parameter.geometry)
    title = "no activation found: gain 1" if found is None else f"scaled for {found}"
    return Chosen(_padded(advice.initializer, parameter), title)


def _glorot_by_gate(parameter: Parameter) -> VarianceScaling:
    return glorot_uniform(layout="OI", blocks=GATES[parameter.layer])


def _orthogonal_by_gate(parameter: Parameter) -> Initializer:
    gate, count = Orthogonal(column_axis=0), GATES[parameter.layer]
    return gate if count == 1 else Blocks(gate, count)


def _kernel_by_gate(parameter: Parameter) -> VarianceScaling:
    return glorot_uniform(**parameter.geometry)


def _recurrent_kernel_by_gate(parameter: Parameter) -> Initializer:
    gate, count = Orthogonal(), parameter.blocks
    return gate if count == 1 else Blocks(gate, count, axis=-1)


def _forget_bias(parameter: Parameter) -> Initializer:
    return Blocks(tuple(ONE if gate == FORGET else ZERO for gate in range(GATES["LSTM"])))


def _table(parameter: Parameter) -> Chosen:
    # gives logits of unit variance in a head that shares the table, for inputs of unit variance
    std = 1.0 / math.sqrt(max(parameter.shape[-1], 1))
    if parameter.tied:
        return Chosen(_padded(Normal(0.0, std), parameter), "embedding, at the scale of the head that shares it")
    if parameter.beside_tied:
        return Chosen(_padded(Normal(0.0, std), parameter), "embedding, at the scale of the one that is tied")
    return Chosen(_padded(Normal(), parameter), "embedding")


def _extra_key(parameter: Parameter) -> Initializer:
    return Normal(0.0, 1.0 / math.sqrt(max(parameter.shape[-1], 1)))


SUITED: Final = _rows(
    (f"Linear {OUTPUT} Bilinear Conv1D {CONVOLUTIONS}", "weight", _scaled, "scaled", True),
    (f"Linear {OUTPUT} Bilinear Conv1D {CONVOLUTIONS} {KERAS_LINEAR}", "bias", ZERO, "bias"),
    (KERAS_LINEAR, KERAS_KERNEL, _scaled, "scaled", True),
    (f"{NORMS} {KERAS_NORMS}", "weight|gamma|scale", ONE, "norm weight"),
    (f"{NORMS} {KERAS_NORMS}", "bias|beta", ZERO, "norm bias"),
    (RECURRENT, f"weight_ih{NUMBERED}", _glorot_by_gate, "recurrent layer, input weight", True),
    (RECURRENT, f"weight_hr{NUMBERED}", glorot_uniform(layout="OI"), "recurrent layer, projection", True),
    (RECURRENT, f"weight_hh{NUMBERED}", _orthogonal_by_gate, "recurrent layer, orthogonal per gate", True),
    (LSTM, f"bias_ih{NUMBERED}", _forget_bias, "LSTM bias, forget gate 1"),
    (RECURRENT, f"bias_[ih]h{NUMBERED}", ZERO, "recurrent layer, bias"),
    (KERAS_RECURRENT, "kernel", _kernel_by_gate, "recurrent layer, input weight", True),
    (KERAS_RECURRENT, "recurrent_kernel", _recurrent_kernel_by_gate, "recurrent layer, orthogonal per gate", True),
    (KERAS_LSTM, "bias", _forget_bias, "LSTM bias, forget gate 1"),
    (KERAS_RECURRENT, "bias", ZERO, "recurrent layer, bias"),
    ("MultiheadAttention", "in_proj_weight", glorot_uniform(layout="OI", blocks=3), "packed attention weight", True),
    ("MultiheadAttention", "[qkv]_proj_weight", glorot_uniform(layout="OI"), "attention weight", True),
    ("MultiheadAttention", "in_proj_bias", ZERO, "attention bias"),
    ("MultiheadAttention", "bias_[kv]", _extra_key, "attention, extra key and value"),
    ("Embedding EmbeddingBag", "weight|embeddings", _table, "embedding"),
    ("PReLU", "weight|alpha", Constant(PRELU_SLOPE), "PReLU"),
)
"""Initializers that keep the size of the signal, from the true fans and the following activation."""


# Defaults of the constructors


def _within(fan: int) -> Initializer:
    """U(-1 / sqrt(fan), 1 / sqrt(fan)); zeros if fan is 0, as in torch."""
    return Uniform(-1.0 / math.sqrt(fan), 1.0 / math.sqrt(fan)) if fan > 0 else ZERO


def _torch_bias(parameter: Parameter) -> Initializer | None:
    return None if parameter.weight_shape is None else _within(math.prod(parameter.weight_shape[1:]))


def _torch_bilinear(parameter: Parameter) -> Initializer | None:
    shape = parameter.shape if parameter.role == "weight" else parameter.weight_shape
    return None if shape is None else _within(shape[1])


def _torch_recurrent(parameter: Parameter) -> Initializer:
    projection = parameter.role.startswith("weight_hr")
    return _within(parameter.shape[1] if projection else parameter.shape[0] // GATES[parameter.layer])


def _torch_table(parameter: Parameter) -> Initializer:
    return _padded(Normal(), parameter)


TORCH_LAYERS: Final = _rows(
    (NORMS, "weight", ONE, "norm weight"),
    (NORMS, "bias", ZERO, "norm bias"),
    (OUTPUT, "bias", ZERO, "attention bias"),
    ("Bilinear", "weight|bias", _torch_bilinear, "U(+-1/sqrt(in1))"),
    ("Conv1D", "weight", Normal(0.0, 0.02), "transformers Conv1D"),
    ("Conv1D", "bias", ZERO, "transformers Conv1D, bias"),
    (f"Linear {OUTPUT} {CONVOLUTIONS}", "weight", torch_default_uniform(**TORCH_FANS), "U(+-1/sqrt(fan_in))"),
    (f"Linear {CONVOLUTIONS}", "bias", _torch_bias, "bias U(+-1/sqrt(fan_in))"),
    (RECURRENT, f"(weight_[ih]h|weight_hr|bias_[ih]h){NUMBERED}", _torch_recurrent, "U(+-1/sqrt(hidden))"),
    ("Embedding EmbeddingBag", "weight", _torch_table, "embedding"),
    ("MultiheadAttention", "(in|[qkv])_proj_weight", glorot_uniform(**TORCH_FANS), "attention, Xavier"),
    ("MultiheadAttention", "bias_[kv]", glorot_normal(**TORCH_FANS), "attention, extra key and value"),
    ("MultiheadAttention", "in_proj_bias", ZERO, "attention bias"),
    ("PReLU", "weight", Constant(PRELU_SLOPE), "PReLU"),
)
"""Defaults of torch.nn's layers, with torch's fans: packed attention weights count as one matrix."""


KERAS: Final = _rows(
    ("EinsumDense", "kernel", _kernel_by_gate, "Glorot, by the equation"),
    (KERAS_LINEAR, KERAS_KERNEL, glorot_uniform(**KERAS_FANS), "Glorot"),
    (KERAS_LINEAR, "bias", ZERO, "bias"),
    (KERAS_NORMS, "gamma|scale", ONE, "norm weight"),
    (KERAS_NORMS, "beta", ZERO, "norm bias"),
    (KERAS_RECURRENT, "kernel", glorot_uniform(**KERAS_FANS), "Glorot"),
    (KERAS_RECURRENT, "recurrent_kernel", Orthogonal(), "orthogonal as a whole"),
    (KERAS_LSTM, "bias", _forget_bias, "LSTM bias, forget gate 1"),
    (KERAS_RECURRENT, "bias", ZERO, "recurrent layer, bias"),
    ("Embedding", "embeddings", Uniform(-0.05, 0.05), "U(+-0.05)"),
    ("PReLU", "alpha", ZERO, "PReLU"),
)
"""Defaults of Keras's layers, with Keras's fans."""


def row_of(rows: Iterable[Row], parameter: Parameter) -> Row | None:
    """The first row that matches a parameter; None if there is none."""
    fitting: Iterator[Row] = (
        row for row in rows if parameter.layer in row.layers and row.role.fullmatch(parameter.role)
    )
    return next(fitting, None)


def suited(parameter: Parameter) -> Chosen | None:
    """A better initializer for a parameter of a torch or Keras layer, with a title; None for other parameters.

    Raises ValueError if the shape does not fit the layout, or the activation is unknown.
    """
    row = row_of(SUITED, parameter)
    return None if row is None else row.chosen(parameter)


def default_of(parameter: Parameter, rows: Iterable[Row] = (*TORCH_LAYERS, *KERAS)) -> Initializer | None:
    """The default initializer of the framework's constructor; None if the layer has no such parameter."""
    row = row_of(rows, parameter)
    chosen = None if row is None else row.chosen(parameter)
    return None if chosen is None else chosen.initializer


def is_linear_map(parameter: Parameter) -> bool:
    """Whether a parameter is the weight of a linear map, judged by its layer."""
    row = row_of(SUITED, parameter)
    return row is not None and row.is_linear and len(parameter.shape) > 1 and parameter.layout is not None


def is_table(parameter: Parameter) -> bool:
    """Whether a parameter is the table of an embedding, judged by its layer."""
    return parameter.layer in TABLES and parameter.role in ("weight", "embeddings")
