"""The same logical tensors through one adapter; ``python frameworks.py ADAPTER [DEVICE [DTYPE...]]`` prints digests.

After them come those that differ when the caller rounds otherwise or flushes subnormals: there should be none.

Each adapter says them in its framework's own words. All are square, so that (in, out) and (out, in) have the same fans;
what an adapter's framework has no word for, it leaves out.
"""

import collections
import contextlib
import ctypes
import ctypes.util
import json
import platform
import sys

import numpy as np

import fastinit
from fastinit import Key, truncation
from fastinit.advice import gains
from fastinit.dtypes import DTYPES
from fastinit.initializers import plan

SHAPE = (24, 24)
KEY = Key("the law of frameworks")

# What is to be filled, in the core's words.
TENSORS = {
    "zeros": fastinit.Zeros(),
    "ones": fastinit.Ones(),
    "constant": fastinit.Constant(0.3),
    "uniform": fastinit.Uniform(-0.2, 0.5),
    "uniform symmetric": fastinit.Uniform(-0.3, 0.3),
    "uniform from 0": fastinit.Uniform(0.0, 0.7),
    "normal": fastinit.Normal(0.0, 0.75),
    "normal shifted": fastinit.Normal(0.25, 0.75),
    "truncated": fastinit.TruncatedNormal(0.0, 0.5),
    "truncated elsewhere": fastinit.TruncatedNormal(0.0, 0.5, -1.0, 3.0),
    "glorot uniform": fastinit.glorot_uniform(),
    "glorot normal": fastinit.glorot_normal(),
    "glorot truncated": fastinit.glorot_truncated_normal(),
    "he uniform": fastinit.he_uniform(),
    "he normal": fastinit.he_normal(),
    "he truncated": fastinit.he_truncated_normal(),
    "lecun uniform": fastinit.lecun_uniform(),
    "lecun normal": fastinit.lecun_normal(),
    "lecun truncated": fastinit.lecun_truncated_normal(),
    "fan_out": fastinit.VarianceScaling(0.7, "fan_out", "uniform"),
    "orthogonal": fastinit.Orthogonal(1.5),
}


def core(device):
    for name, initializer in TENSORS.items():
        yield (
            name,
            lambda dtype, initializer=initializer: fastinit.fill(
                np.empty(SHAPE, f"u{DTYPES[dtype].itemsize}"), initializer, KEY, dtype=dtype
            ),
        )


def numpy(device):
    from fastinit.adapters import numpy as init

    words = {
        "zeros": (init.zeros, {}),
        "ones": (init.ones, {}),
        "constant": (init.constant, {"value": 0.3}),
        "uniform": (init.uniform, {"low": -0.2, "high": 0.5}),
        "uniform symmetric": (init.uniform, {"low": -0.3, "high": 0.3}),
        "uniform from 0": (init.uniform, {"low": 0.0, "high": 0.7}),
        "normal": (init.normal, {"std": 0.75}),
        "normal shifted": (init.normal, {"mean": 0.25, "std": 0.75}),
        "truncated": (init.truncated_normal, {"std": 0.5}),
        "truncated elsewhere": (init.truncated_normal, {"std": 0.5, "low": -1.0, "high": 3.0}),
        **{
            f"{scheme} {short}": (getattr(init, f"{scheme}_{kind}"), {})
            for scheme in ("glorot", "he", "lecun")
            for short, kind in (("uniform", "uniform"), ("normal", "normal"), ("truncated", "truncated_normal"))
        },
        "fan_out": (init.variance_scaling, {"scale": 0.7, "mode": "fan_out", "distribution": "uniform"}),
        "orthogonal": (init.orthogonal, {"gain": 1.5}),
    }
    for name, (function, own) in words.items():
        yield name, lambda dtype, function=function, own=own: function(SHAPE, key=KEY, dtype=dtype, **own)


def torch(device):
    import torch

    from fastinit.adapters.torch import fill_, init

    words = {
        "zeros": (init.zeros_, {}),
        "ones": (init.ones_, {}),
        "constant": (init.constant_, {"val": 0.3}),
        "uniform": (init.uniform_, {"a": -0.2, "b": 0.5, "key": KEY}),
        "uniform symmetric": (init.uniform_, {"a": -0.3, "b": 0.3, "key": KEY}),
        "uniform from 0": (init.uniform_, {"b": 0.7, "key": KEY}),
        "normal": (init.normal_, {"std": 0.75, "key": KEY}),
        "normal shifted": (init.normal_, {"mean": 0.25, "std": 0.75, "key": KEY}),
        "truncated": (init.trunc_normal_, {"std": 0.5, "a": -1.0, "b": 1.0, "key": KEY}),
        "truncated elsewhere": (init.trunc_normal_, {"std": 0.5, "a": -0.5, "b": 1.5, "key": KEY}),
        "glorot uniform": (init.xavier_uniform_, {"key": KEY}),
        "glorot normal": (init.xavier_normal_, {"key": KEY}),
        "glorot truncated": (init.xavier_truncated_normal_, {"key": KEY}),
        "he uniform": (init.kaiming_uniform_, {"nonlinearity": "relu", "key": KEY}),
        "he normal": (init.kaiming_normal_, {"nonlinearity": "relu", "key": KEY}),
        "he truncated": (init.kaiming_truncated_normal_, {"nonlinearity": "relu", "key": KEY}),
        "lecun uniform": (init.lecun_uniform_, {"key": KEY}),
        "lecun normal": (init.lecun_normal_, {"key": KEY}),
        "lecun truncated": (init.lecun_truncated_normal_, {"key": KEY}),
        "fan_out": (init.variance_scaling_, {"scale": 0.7, "mode": "fan_out", "distribution": "uniform", "key": KEY}),
        # torch's rows are the core's columns
        "orthogonal": (lambda tensor: fill_(tensor, fastinit.Orthogonal(1.5), KEY), {}),
    }
    for name, (function, own) in words.items():
        yield (
            name,
            lambda dtype, function=function, own=own: (
                function(torch.empty(SHAPE, dtype=getattr(torch, dtype), device=device), **own)
                .view(torch.uint8)
                .numpy(force=True)
            ),
        )


def keras(device):
    import keras

    from fastinit.adapters.keras import initializers as init

    words = {
        "zeros": init.Zeros(),
        "ones": init.Ones(),
        "constant": init.Constant(0.3),
        "uniform": init.RandomUniform(-0.2, 0.5, seed=KEY),
        "uniform symmetric": init.RandomUniform(-0.3, 0.3, seed=KEY),
        "uniform from 0": init.RandomUniform(0.0, 0.7, seed=KEY),
        "normal": init.RandomNormal(0.0, 0.75, seed=KEY),
        "normal shifted": init.RandomNormal(0.25, 0.75, seed=KEY),
        "truncated": init.TruncatedNormal(0.0, 0.5, seed=KEY),
        **{
            f"{scheme.lower()} {short}": getattr(init, scheme + kind)(seed=KEY)
            for scheme in ("Glorot", "He", "Lecun")
            for short, kind in (("uniform", "Uniform"), ("normal", "UntruncatedNormal"), ("truncated", "Normal"))
        },
        "fan_out": init.VarianceScaling(0.7, "fan_out", "uniform", seed=KEY),
        "orthogonal": init.Orthogonal(1.5, seed=KEY),
    }

    def values(initializer, dtype):
        tensor = initializer(SHAPE, dtype=dtype)
        if keras.config.backend() == "torch":
            import torch

            return tensor.view(torch.uint8).numpy()
        return np.asarray(tensor)

    for name, initializer in words.items():
        yield name, lambda dtype, initializer=initializer: values(initializer, dtype)


def jax(device):
    import jax

    from fastinit.adapters import jax as init

    jax.config.update("jax_enable_x64", True)
    words = {
        "zeros": init.zeros,
        "ones": init.ones,
        "constant": init.constant(0.3),
        "uniform from 0": init.uniform(0.7),
        "normal": init.normal(0.75),
        "truncated": init.truncated_normal(0.5),
        "truncated elsewhere": init.truncated_normal(0.5, lower=-1.0, upper=3.0),
        **{
            f"{scheme} {short}": getattr(init, f"{scheme}_{kind}")()
            for scheme in ("glorot", "he", "lecun")
            for short, kind in (("uniform", "uniform"), ("normal", "untruncated_normal"), ("truncated", "normal"))
        },
        "fan_out": init.variance_scaling(0.7, "fan_out", "uniform"),
        "orthogonal": init.orthogonal(1.5),
    }
    for name, initializer in words.items():
        yield name, lambda dtype, initializer=initializer: np.asarray(initializer(KEY, SHAPE, dtype))


def numba(device):
    from fastinit.adapters.numba import fill

    if device == "cuda":
        from numba import cuda

        def filled(initializer, dtype):
            out = cuda.to_device(np.empty(SHAPE, f"u{DTYPES[dtype].itemsize}"))
            fill(out, initializer, KEY, dtype=dtype)
            return out.copy_to_host()
    else:

        def filled(initializer, dtype):
            return fill(np.empty(SHAPE, f"u{DTYPES[dtype].itemsize}"), initializer, KEY, dtype=dtype)

    for name, initializer in TENSORS.items():
        yield name, lambda dtype, initializer=initializer: filled(initializer, dtype)


# Functions of the framework that the adapter hands on: they convert a number as the framework does.
THEIR_OWN = collections.defaultdict(
    set, {name: {f"constant, {dtype}" for dtype in DTYPES} for name in ("torch", "jax")}
)


def digests(adapter, device, dtypes):
    """The digest of every tensor in every dtype; what the heart and the adapter remember is forgotten first."""
    for function in (plan, truncation.standard_deviation, truncation.window, gains._named):
        function.cache_clear()
    return {
        f"{name}, {dtype}": fastinit.digest(np.ascontiguousarray(values(dtype)))
        for name, values in globals()[adapter](device)
        for dtype in dtypes
    }


@contextlib.contextmanager
def rounding(mode, flush):
    """Another floating-point environment of this thread, of x86_64 on Linux: MXCSR is at byte 28 of fenv_t."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    saved, changed = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    libm.fegetenv(saved)
    libm.fesetround(mode)
    libm.fegetenv(changed)
    ctypes.c_uint32.from_buffer(changed, 28).value |= 0x8040 if flush else 0
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(saved)


def main(adapter, device="cpu", *dtypes):
    """The program."""
    dtypes = dtypes or tuple(DTYPES)
    usual, different = digests(adapter, device, dtypes), []
    # a device has an environment of its own, and the simulator computes in Python what a device would
    if device == "cpu" and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        for mode, flush in ((0x400, False), (0x800, False), (0xC00, True), (0, True)):
            with rounding(mode, flush):
                found = digests(adapter, device, dtypes)
            names = {name for name in usual if found[name] != usual[name]} - THEIR_OWN[adapter]
            different += [f"{name}, mode {mode:#x}, {flush=}" for name in sorted(names)]
    print(json.dumps([usual, different]))


if __name__ == "__main__":
    main(*sys.argv[1:])
