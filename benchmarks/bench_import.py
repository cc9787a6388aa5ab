"""What `import fastinit` costs a fresh interpreter; NumPy is most of it and cannot be done without."""


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
