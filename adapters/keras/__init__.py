"""Keras, on all its backends: initializers with the classes of ``keras.initializers``, and whole models by path.

===============  =======================================================================================
initializers     ``keras.initializers`` with other numbers and more speed, and additional initializers
initialize       fills every variable of a model, as its layers do or by rules, and returns a record
explain          compares what each recipe would do to each variable, with reasons
recorded         context in which new variables keep their initializers
replay           fills a model again from a record
verify           reports which variables still match a record, and how the others changed
audit            finds bad variables, and the layer where the signal breaks
plan             the plan of a model's weight file
save             a plan as a weight file, in bounded memory
lsuv             layer-sequential unit variance: scales kernels with a batch of data
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
import fastinit.extending  # noqa: F401 (first: detects an unrelated package that overwrote this one)
from fastinit.adapters.h5py import save
from fastinit.adapters.keras import initializers
from fastinit.adapters.keras.auditing import audit, lsuv
from fastinit.adapters.keras.explaining import explain
from fastinit.adapters.keras.models import initialize, replay
from fastinit.adapters.keras.plans import plan
from fastinit.adapters.keras.programs import recorded
from fastinit.adapters.keras.verifying import verify

__all__ = ["audit", "explain", "initialize", "initializers", "lsuv", "plan", "recorded", "replay", "save", "verify"]
