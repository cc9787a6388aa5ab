"""The kernels in cache on one thread, each sampler on each target: the cases of in_cache.py."""

from .bench_fill import TARGETS, supported
from .counters import Counter
from .in_cache import CASES, ELEMENTS, filling, rate


class InCache:
    """A fill of 2^18 elements, which neither memory nor threads hold up."""

    params = (list(CASES), TARGETS)
    param_names = ("case", "target")
    warmup_time = 0.02
    sample_time = 0.01
    rounds = 1
    repeat = (5, 50, 0.5)

    def setup(self, case, target):
        supported(target)
        self.fill = filling(case, target)
        self.fill()

    def time_fill(self, case, target):
        self.fill()

    def track_values_per_nanosecond(self, case, target):
        return rate(self.fill, 50)

    track_values_per_nanosecond.unit = "values/ns"


class Cycles:
    """Cycles of the processor per value, which its clock does not change; where Linux lets them be counted."""

    params = InCache.params
    param_names = InCache.param_names

    counter = None

    def setup(self, case, target):
        supported(target)
        self.counter = Counter()
        self.fill = filling(case, target)
        self.fill()
        self.counter.of(self.fill)

    def teardown(self, case, target):  # after a skip too
        if self.counter:
            self.counter.close()

    def track_cycles_per_value(self, case, target):
        return min(self.counter.of(self.fill) for _ in range(50)) / ELEMENTS

    track_cycles_per_value.unit = "cycles/value"
