"""The time of imports in a fresh interpreter. NumPy takes most of `import fastinit`."""

from .bench_keras import keras_on
from .side_by_side import optional


class Import:
    """Each sample is an interpreter of its own."""

    repeat = (3, 10, 2.0)
    rounds = 1

    def timeraw_numpy(self):
        return "import numpy"

    def timeraw_fastinit(self):
        return "import fastinit"

    def timeraw_fastinit_beyond_numpy(self):
        return "import fastinit", "import numpy, threading, hashlib, fractions, dataclasses"

    def timeraw_adapter_beyond_fastinit(self):
        return "import fastinit.adapters.numpy", "import fastinit"

    def timeraw_first_fill(self):
        return (
            "fastinit.fill(out, fastinit.he_normal(), fastinit.Key(0))",
            "import numpy, fastinit; out = numpy.zeros((16, 16), numpy.float32)",
        )


KERAS = """
import os, tempfile
home = tempfile.TemporaryDirectory()  # where Keras writes its configuration
os.environ |= {"KERAS_BACKEND": "jax", "KERAS_HOME": home.name}
import keras
"""


class Adapter:
    """An adapter beyond fastinit and its framework; Keras's on JAX, which is imported soonest."""

    params = (["torch", "keras", "jax", "numba"],)
    param_names = ("framework",)
    repeat = (2, 5, 2.0)
    rounds = 1

    def setup(self, framework):
        if framework == "keras":
            keras_on("jax")
        optional(framework)
        optional(f"fastinit.adapters.{framework}")

    def timeraw_beyond_framework(self, framework):
        before = KERAS if framework == "keras" else f"import {framework}"
        return f"import fastinit.adapters.{framework}", f"{before}\nimport fastinit"
