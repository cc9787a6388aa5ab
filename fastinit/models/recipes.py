"""Recipes: ordered rules that give every parameter of a model its initializer, free of any framework.

An adapter describes each parameter (:class:`Parameter`), a recipe's first rule that matches says how to fill it, and
its key is the seed's with the parameter's name folded in: adding, removing or reordering parameters changes no other.

>>> import fastinit
>>> weight = Parameter("mlp.up.weight", (64, 16), types=("Linear",), activation="relu")
>>> rule, initializer = RECIPES["auto"].match(weight)
>>> initializer == fastinit.he_normal(layout="OI...")
True
>>> recipe = RECIPES["auto"].with_rules(Rule("Linear", "*.up.weight", fastinit.Orthogonal(column_axis=0)))
>>> recipe.match(weight)[1]
Orthogonal(gain=1.0, column_axis=0)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from fastinit import checks
from fastinit.advice.activations import PRELU_SLOPE
from fastinit.advice.recommending import recommend
from fastinit.checks import sequence_of, shown
from fastinit.composites import Blocks, ZeroRow
from fastinit.exact import in_stream_environment
from fastinit.initializers import (
    Constant,
    Initializer,
    Normal,
    Ones,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
    expected_std,
)
from fastinit.keys import Key
from fastinit.models.records import Entry
from fastinit.models.rules import GATES, Parameter, Recipe, Rule, UnmatchedParameter, gates_of
from fastinit.presets import glorot_normal, glorot_uniform, lecun_normal, torch_default_uniform
from fastinit.structured import Orthogonal

__all__ = ["AUTO", "RECIPES", "TORCH", "Parameter", "Recipe", "Rule", "UnmatchedParameter", "assigned", "recipe_named"]


ZERO, ONE = Zeros(), Ones()
SMALL = TruncatedNormal(std=0.02)
LSTM, RECURRENT = "LSTM|LSTMCell", "RNN|LSTM|GRU|RNNCell|LSTMCell|GRUCell"
# where the forget gate is among those of an LSTM, in the order of torch and Keras: i, f, g, o
FORGET = 1
LINEAR = "Linear|Bilinear|Conv?d|ConvTranspose?d|Conv1D"
# Keras's names: kernels, with the output axis last.
KERAS_LINEAR = "Dense|EinsumDense|Conv?D|Conv?DTranspose|DepthwiseConv?D|SeparableConv?D"
KERAS_RECURRENT, KERAS_LSTM = "SimpleRNNCell|LSTMCell|GRUCell|ConvLSTM*Cell", "LSTMCell|ConvLSTM*Cell"
# Norms that multiply by 1 + weight.
ZERO_CENTRED = (
    "GemmaRMSNorm|Gemma[23]RMSNorm|RecurrentGemmaRMSNorm|VaultGemmaRMSNorm|T5GemmaRMSNorm|T5Gemma2RMSNorm"
    "|Qwen3NextRMSNorm|Qwen3_5RMSNorm|Qwen3_5MoeRMSNorm|Qwen4ExpTextRMSNorm|MiniMaxM3VLRMSNorm|Step3p7RMSNorm"
    "|*CenteredRMSNorm|*InputScaledRMSNorm"
)
POSITIONS = (
    "*position_embedding*|*positional_embedding*|*pos_embed*|*pos_emb|*embed_positions*|*wpe.weight"
    "|*relative_position_bias*|*relative_attention_bias*"
)
TOKENS = (
    "*cls_token|*class_token|*class_embedding|*dist_token|*distillation_token|*mask_token|*mask_tokens|*query_tokens"
    "|*reg_token|*register_tokens"
)
LAYER_SCALE = "*layer_scale*|*layerscale*|gamma_?|lambda_?"


def scaled_for_activation(parameter: Parameter) -> VarianceScaling | None:
    """By the true fans and what follows: Glorot, He, LeCun, or LeCun times the activation's own gain."""
    if parameter.layout is None or len(parameter.shape) < 2:
        return None
    advice = recommend(parameter.activation, negative_slope=parameter.negative_slope, **parameter.geometry)
    assert isinstance(advice.initializer, VarianceScaling)
    return advice.initializer


def _experts(parameter: Parameter) -> VarianceScaling | None:
    # only who says which axis counts the experts has described such a weight
    layout = parameter.layout
    stacked = "E" in layout if isinstance(layout, str) else layout is not None and layout.batch_axis != ()
    return scaled_for_activation(parameter) if stacked else None


def _router(parameter: Parameter) -> VarianceScaling | None:
    return lecun_normal(layout="OI") if len(parameter.shape) == 2 else None


def _glorot_by_gate(parameter: Parameter) -> VarianceScaling:
    return glorot_uniform(layout="OI", blocks=gates_of(parameter.types))


def _orthogonal_by_gate(parameter: Parameter) -> Initializer:
    gate, count = Orthogonal(column_axis=0), gates_of(parameter.types)
    return gate if count == 1 else Blocks(gate, count)


def _kernel_by_gate(parameter: Parameter) -> VarianceScaling:
    return glorot_uniform(**parameter.geometry)


def _recurrent_kernel_by_gate(parameter: Parameter) -> Initializer:
    gate, count = Orthogonal(), parameter.blocks
    return gate if count == 1 else Blocks(gate, count, axis=-1)


def _forget_bias(parameter: Parameter) -> Initializer:
    return Blocks(tuple(ONE if gate == FORGET else ZERO for gate in range(GATES["LSTM"])))


def _embedding(parameter: Parameter) -> Initializer:
    # the logits of a head that shares the embedding have unit variance, for unit inputs
    std = 1.0 / math.sqrt(max(parameter.shape[-1], 1)) if parameter.tied else 1.0
    return _padded(Normal(0.0, std), parameter)


def _positions(parameter: Parameter) -> Initializer:
    return _padded(SMALL, parameter)


def _padded(rows: Initializer, parameter: Parameter) -> Initializer:
    return rows if parameter.zero_row is None else ZeroRow(rows, parameter.zero_row)


def _extra_key(parameter: Parameter) -> Initializer:
    return Normal(0.0, 1.0 / math.sqrt(max(parameter.shape[-1], 1)))


AUTO: Final = Recipe(
    (
        Rule(ZERO_CENTRED, "weight", ZERO, "norm of 1 + weight"),
        Rule("*Norm*", "weight|gamma|scale", ONE, "norm weight"),
        Rule("*Norm*", "bias|beta", ZERO, "norm bias"),
        Rule(LINEAR, "weight", scaled_for_activation, "scaled for the activation that follows"),
        Rule(LINEAR, "bias", ZERO, "bias"),
        Rule(KERAS_LINEAR, "*kernel", scaled_for_activation, "scaled for the activation that follows"),
        Rule("*Experts*", "*", _experts, "experts, scaled for the activation that follows"),
        Rule("*Router", "weight", _router, "router of experts"),
        Rule(RECURRENT, "weight_ih*", _glorot_by_gate, "recurrent layer, input weight"),
        Rule(RECURRENT, "weight_hr*", glorot_uniform(layout="OI"), "recurrent layer, projection"),
        Rule(RECURRENT, "weight_hh*", _orthogonal_by_gate, "recurrent layer, orthogonal per gate"),
        Rule(LSTM, "bias_ih*", _forget_bias, "LSTM bias, forget gate 1"),
        Rule(RECURRENT, "bias_ih*|bias_hh*", ZERO, "recurrent layer, bias"),
        Rule(KERAS_RECURRENT, "kernel", _kernel_by_gate, "recurrent layer, input weight"),
        Rule(KERAS_RECURRENT, "recurrent_kernel", _recurrent_kernel_by_gate, "recurrent layer, orthogonal per gate"),
        Rule(KERAS_LSTM, "bias", _forget_bias, "LSTM bias, forget gate 1"),
        Rule("MultiheadAttention", "in_proj_weight", glorot_uniform(layout="OI", blocks=3), "packed attention weight"),
        Rule("MultiheadAttention", "[qkv]_proj_weight", glorot_uniform(layout="OI"), "attention weight"),
        Rule("MultiheadAttention", "bias_[kv]", _extra_key, "attention, extra key and value"),
        Rule("*", "bias|in_proj_bias|[qv]_bias", ZERO, "bias"),
        Rule("*", POSITIONS, _positions, "positions"),
        Rule("*", TOKENS, SMALL, "learned token"),
        Rule("Embedding|EmbeddingBag", "weight|embeddings", _embedding, "embedding"),
        Rule("PReLU", "weight|alpha", Constant(PRELU_SLOPE), "PReLU"),
        Rule("*LayerScale*", "*", Constant(1e-5), "layer scale"),
        Rule("*", LAYER_SCALE, Constant(1e-5), "layer scale"),
        Rule("*", "logit_scale", Constant(2.659260036932778), "temperature of contrastive logits"),
    ),
    "auto",
)
"""Each weight at the scale that keeps the size of the signal, from its true fans and the activation that follows.

X. Glorot and Y. Bengio 2010; K. He et al. 2015; G. Klambauer et al. 2017 (SELU); A. M. Saxe et al. 2013 (orthogonal
recurrence); R. Jozefowicz et al. 2015 (forget gate); H. Touvron et al. 2021 (layer scale); A. Radford et al. 2021
(logit_scale).
"""


# torch's fans are size(1) and size(0) times the receptive field, whatever the axes mean
TORCH_FANS: Final[dict[str, Any]] = {"layout": "OI..."}


def _within(fan: int) -> Initializer:
    """U(-1 / sqrt(fan), 1 / sqrt(fan)); 0 where torch takes the bound to be 0."""
    return Uniform(-1.0 / math.sqrt(fan), 1.0 / math.sqrt(fan)) if fan > 0 else ZERO


def _torch_weight(parameter: Parameter) -> Initializer:
    return torch_default_uniform(**TORCH_FANS)


def _torch_bias(parameter: Parameter) -> Initializer | None:
    return None if parameter.weight_shape is None else _within(math.prod(parameter.weight_shape[1:]))


def _torch_bilinear(parameter: Parameter) -> Initializer | None:
    shape = parameter.shape if parameter.role == "weight" else parameter.weight_shape
    return None if shape is None else _within(shape[1])


def _torch_recurrent(parameter: Parameter) -> Initializer:
    projection = parameter.role.startswith("weight_hr")
    return _within(parameter.shape[1] if projection else parameter.shape[0] // gates_of(parameter.types))


def _torch_embedding(parameter: Parameter) -> Initializer:
    return _padded(Normal(), parameter)


TORCH: Final = Recipe(
    (
        Rule("*Norm*", "weight", ONE, "norm weight"),
        Rule("*Norm*", "bias", ZERO, "norm bias"),
        Rule("NonDynamicallyQuantizableLinear", "bias", ZERO, "attention bias"),
        Rule("Bilinear", "weight|bias", _torch_bilinear, "U(+-1/sqrt(in1))"),
        Rule("Conv1D", "weight", Normal(0.0, 0.02), "transformers Conv1D"),
        Rule("Conv1D", "bias", ZERO, "transformers Conv1D, bias"),
        Rule(LINEAR, "weight", _torch_weight, "U(+-1/sqrt(fan_in))"),
        Rule(LINEAR, "bias", _torch_bias, "bias U(+-1/sqrt(fan_in))"),
        Rule(RECURRENT, "weight_?h*|weight_hr*|bias_?h*", _torch_recurrent, "U(+-1/sqrt(hidden))"),
        Rule("Embedding|EmbeddingBag", "weight", _torch_embedding, "embedding"),
        Rule("MultiheadAttention", "*_weight", glorot_uniform(**TORCH_FANS), "attention, Xavier"),
        Rule("MultiheadAttention", "bias_[kv]", glorot_normal(**TORCH_FANS), "attention, extra key and value"),
        Rule("MultiheadAttention", "in_proj_bias", ZERO, "attention bias"),
        Rule("PReLU", "weight", Constant(PRELU_SLOPE), "PReLU"),
    ),
    "torch",
)
"""What the constructors of torch.nn's layers do, with their fans: packed attention weights count as one matrix.

``nn.Transformer``, which draws the weights of the layers inside it once more, is treated layer by layer.
"""

RECIPES: Final = {recipe.name: recipe for recipe in (AUTO, TORCH)}


def recipe_named(recipe: str | Recipe) -> Recipe:
    """A recipe by its name; a Recipe is itself.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or the name is not known.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.recipe_named("auto") is fastinit.AUTO
    True
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise TypeError(f"recipe must be a name or a Recipe, not {shown(recipe)}")
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, or a Recipe; got {shown(recipe)}")
    return RECIPES[recipe]


@in_stream_environment
def assigned(parameters: Iterable[Parameter], recipe: str | Recipe, seed: int | str) -> list[Entry]:
    """An entry for each parameter: its rule, initializer, fans, expected standard deviation and key.

    Nothing is filled. The key is ``Key(seed).fold_in(name)``; `dtype` and `digest` of the entries are left open.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those of one model, in its order.
    recipe : str or Recipe
        ``"auto"``, ``"torch"``, or rules of your own.
    seed : int or str
        Seed of all keys.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        If no rule matches a parameter, two have the same name, an initializer refuses the shape, or the rules
        contradict each other.

    Examples
    --------
    >>> import fastinit
    >>> weight = fastinit.Parameter("up.weight", (64, 128), ("Linear",))
    >>> for entry in fastinit.assigned([weight], "torch", seed=0):
    ...     print(entry.name, f"{entry.std:.4f}")  # 1 / sqrt(3 * 128)
    up.weight 0.0510
    """
    chosen, key = recipe_named(recipe), Key(checks.seed(seed))
    entries: dict[str, Entry] = {}
    for parameter in sequence_of(Parameter, "parameters must be a sequence of Parameter", parameters):
        if parameter.name in entries:
            raise ValueError(f"two parameters have the same name {parameter.name!r}, without what wrappers add to it")
        try:
            rule, initializer = chosen.match(parameter)
            std, found = expected_std(initializer, parameter.shape), parameter.fans
        except ValueError as problem:
            raise ValueError(f"{parameter.name!r} of shape {parameter.shape}: {problem}") from None
        entries[parameter.name] = Entry(
            parameter.name,
            parameter.shape,
            rule.title,
            initializer,
            key.fold_in(parameter.name),
            found,
            std,
            other_names=parameter.other_names,
        )
    return list(entries.values())
