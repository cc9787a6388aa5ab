"""Keras, on all its backends: initializers with the classes of ``keras.initializers``, and whole models by path.

===============  =======================================================================================
initializers     ``keras.initializers`` with other numbers and more speed, and the initializers that it lacks
initialize       every variable of a model, as its layers do or by rules; gives a record
explain          what each recipe would do to each variable, and why
recorded         where new variables keep what they are made with
replay           fills a model again as a record says
verify           which variables still hold what the record says, and what became of the others
audit            what is wrong with a model's variables, and where its signal breaks
lsuv             layer-sequential unit variance: scales kernels by what a batch shows
===============  =======================================================================================

>>> import keras
>>> from fastinit.adapters.keras import initialize, initializers
>>> dense = keras.layers.Dense(64, activation="relu", kernel_initializer=initializers.HeNormal(seed=0))
>>> model = keras.Sequential([keras.Input((32,)), dense, keras.layers.Dense(10)])
>>> record = initialize(model, "auto", seed=0)
>>> [entry.initializer.scale for entry in record if entry.fans]
[2.0, 1.0]
"""

# first, since it refuses a Keras that is too old for what follows
from fastinit.adapters.keras import versions  # noqa: F401

# isort: split
import fastinit.extending  # noqa: F401 (first: names an unrelated package that lies over this one)
from fastinit.adapters.keras import initializers
from fastinit.adapters.keras.auditing import audit, lsuv
from fastinit.adapters.keras.explaining import explain
from fastinit.adapters.keras.models import initialize, replay
from fastinit.adapters.keras.programs import recorded
from fastinit.adapters.keras.verifying import verify

__all__ = ["audit", "explain", "initialize", "initializers", "lsuv", "recorded", "replay", "verify"]
