# cython: language_level=3, freethreading_compatible=True, boundscheck=False
"""Binding of the kernels: names, one class per struct, and calls without the GIL. No logic.

It also has what Python cannot express: calls in another floating-point environment, and equality by bits.
"""

from numbers import Number

from libc.math cimport signbit
from libc.stddef cimport size_t
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_Clear
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

cimport numpy as cnp

cnp.import_array()

cdef extern from "kernels/fastinit.h" nogil:
    int FASTINIT_MAX_AXES, FASTINIT_UINT32
    int FASTINIT_CONSTANT, FASTINIT_WORDS, FASTINIT_UNIFORM_SYMMETRIC, FASTINIT_UNIFORM, FASTINIT_NORMAL
    int FASTINIT_TRUNCATED_2, FASTINIT_TRUNCATED
    int FASTINIT_UNIFORM_SYMMETRIC_64, FASTINIT_UNIFORM_64, FASTINIT_NORMAL_64
    int FASTINIT_TRUNCATED_64, FASTINIT_TRUNCATED_TAIL_64

    ctypedef struct fastinit_sampling:
        int32_t kind, dtype
        double scale, shift, low, high
        int32_t clamped
        uint64_t first, count
        double tail_low, tail_share
        uint64_t bits

    ctypedef struct fastinit_region:
        char *base
        uint64_t start
        int64_t streamed
        int64_t axes
        int64_t *extent
        int64_t *index_stride
        int64_t *byte_stride

    ctypedef struct fastinit_target:
        const char *name
        int (*supported)()

    const fastinit_target *fastinit_targets
    const int fastinit_target_count
    uint64_t fastinit_enter_environment()
    void fastinit_leave_environment(uint64_t saved)
    void fastinit_fill(int target, const fastinit_sampling *, const uint32_t *key, const fastinit_region *,
                       uint64_t position, uint64_t count)
    ctypedef struct fastinit_pieces:
        pass

    void fastinit_begin_pieces(fastinit_pieces *, uint64_t size, uint64_t threads, uint64_t largest)
    bint fastinit_fill_pieces(fastinit_pieces *, int target, const fastinit_sampling *, const uint32_t *key,
                              const fastinit_region *)
    void fastinit_end_pieces(fastinit_pieces *)
    int fastinit_compare(int target, const fastinit_sampling *, const uint32_t *key, const char *memory, uint64_t start,
                         uint64_t count, uint64_t itemsize, uint64_t block, char *scratch, unsigned char *marks)
    void fastinit_reflectors(int target, int dtype, const void *normals, int64_t m, int64_t n, int64_t piece, void *factors,
                             void *scratch)
    void fastinit_columns(int target, int dtype, const void *factors, int64_t m, int64_t n, int64_t piece, double gain,
                          void *scratch, void *out, int64_t row_stride, int64_t column_stride)
    void fastinit_advise_huge_pages(void *memory, size_t size)
    void fastinit_narrow(const float *values, size_t count, int32_t dtype, char *out)

cdef extern from "kernels/orthogonal.h" nogil:
    int64_t fastinit_orthogonal_pieces(int64_t n)
    int64_t fastinit_orthogonal_factors(int64_t m, int64_t n)
    int64_t fastinit_orthogonal_scratch(int64_t m)

CONSTANT = FASTINIT_CONSTANT
WORDS = FASTINIT_WORDS
UNIFORM_SYMMETRIC = FASTINIT_UNIFORM_SYMMETRIC
UNIFORM = FASTINIT_UNIFORM
NORMAL = FASTINIT_NORMAL
TRUNCATED_2 = FASTINIT_TRUNCATED_2
TRUNCATED = FASTINIT_TRUNCATED
UNIFORM_SYMMETRIC_64 = FASTINIT_UNIFORM_SYMMETRIC_64
UNIFORM_64 = FASTINIT_UNIFORM_64
NORMAL_64 = FASTINIT_NORMAL_64
TRUNCATED_64 = FASTINIT_TRUNCATED_64
TRUNCATED_TAIL_64 = FASTINIT_TRUNCATED_TAIL_64
UINT32 = FASTINIT_UINT32
MAX_AXES = FASTINIT_MAX_AXES


cdef class Sampling:
    """A fastinit_sampling: a sampler with its parameters, and a dtype."""

    cdef fastinit_sampling c

    def __init__(self, *, int kind, int dtype, double scale=0.0, double shift=0.0, bint clamped=False, double low=0.0,
                 double high=0.0, uint64_t first=0, uint64_t count=0, double tail_low=0.0, double tail_share=0.0,
                 uint64_t bits=0):
        self.c = fastinit_sampling(kind=kind, dtype=dtype, scale=scale, shift=shift, clamped=clamped, low=low, high=high,
                                   first=first, count=count, tail_low=tail_low, tail_share=tail_share, bits=bits)

    @property
    def parameters(self):
        """All fields, for tests and records."""
        return self.c


cdef class Region:
    """A fastinit_region: location of local elements in memory and in the global tensor. Does not own the memory."""

    cdef fastinit_region c

    def __init__(self, size_t address, uint64_t start, tuple extents, tuple index_strides, tuple byte_strides,
                 bint streamed=False):
        cdef Py_ssize_t axis
        if not 1 <= len(extents) <= FASTINIT_MAX_AXES:
            raise ValueError(f"expected a region of 1 to {FASTINIT_MAX_AXES} axes, got {len(extents)}")
        self.c.base = <char *>address
        self.c.start = start
        self.c.streamed = streamed
        self.c.axes = len(extents)
        for axis in range(len(extents)):
            self.c.extent[axis] = extents[axis]
            self.c.index_stride[axis] = index_strides[axis]
            self.c.byte_stride[axis] = byte_strides[axis]


cdef class Fill:
    """A fill of a region by one or more threads. Does not own the memory."""

    cdef int target
    cdef Sampling sampling
    cdef uint32_t[4] key
    cdef Region region
    cdef fastinit_pieces pieces

    def __init__(self, int target, Sampling sampling not None, tuple key_words, Region region not None):
        self.target, self.sampling, self.region = target, sampling, region
        self.key = [key_words[0], key_words[1], key_words[2], key_words[3]]
        fastinit_begin_pieces(&self.pieces, 0, 1, 1)

    def run(self, uint64_t position, uint64_t count):
        """Writes local elements [position, position + count) of the region in the calling thread."""
        with nogil:
            fastinit_fill(self.target, &self.sampling.c, self.key, &self.region.c, position, count)

    def share(self, uint64_t size, uint64_t threads, uint64_t largest):
        """Prepares the region's first `size` elements for `threads` threads, in pieces of up to `largest` elements."""
        fastinit_begin_pieces(&self.pieces, size, threads, largest)

    def take(self):
        """Fills pieces of up to two times `largest` elements in total. Returns whether there may be more."""
        cdef bint more
        with nogil:
            more = fastinit_fill_pieces(&self.pieces, self.target, &self.sampling.c, self.key, &self.region.c)
        return more

    def end(self):
        """Prevents new pieces from starting. When it returns, no thread is at work."""
        with nogil:
            fastinit_end_pieces(&self.pieces)


def fill_run(int target, Sampling sampling not None, tuple key_words, size_t address, uint64_t start, uint64_t count,
             int64_t itemsize):
    """Writes elements [start, start + count) of the global tensor to contiguous memory, in the calling thread."""
    cdef uint32_t[4] key = [key_words[0], key_words[1], key_words[2], key_words[3]]
    cdef fastinit_region region
    region.base, region.start, region.streamed, region.axes = <char *>address, start, 0, 1
    region.extent[0], region.index_stride[0], region.byte_stride[0] = count, 1, itemsize
    with nogil:
        fastinit_fill(target, &sampling.c, key, &region, 0, count)


# DLPack's table of functions for a framework's tensors, laid out as in its header: https://dmlc.github.io/dlpack
cdef struct dlpack_tensor:
    void *data
    int32_t device_type, device
    int32_t axes
    uint8_t code, bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides
    uint64_t byte_offset

cdef struct dlpack_exchange:
    uint32_t major, minor
    void *previous
    void *allocate
    void *to_managed
    void *from_managed
    int (*look)(void *object, dlpack_tensor *found) noexcept

cdef struct dlpack_facts:
    uint64_t initializer
    uint64_t format
    int64_t shape[8]


cdef class Shortcut:
    """A small fill with bits from a framework's generator in one call: checks, bits, parameters, values.

    It fills tensors that pass all tests and whose parameters it has learned. For all others it returns False.
    """

    cdef object kind, other_kind, watching, odd, odd_kind, which, draw, draw_arguments, written
    cdef dict known
    cdef dlpack_exchange *exchange
    cdef const uint64_t *drawn
    cdef int64_t most
    cdef int target

    def __init__(self, *, tuple kinds not None, object exchange, tuple watching not None, tuple odd not None,
                 tuple odd_kind not None, object target, object draw, tuple draw_arguments not None, size_t drawn,
                 object written, int64_t most):
        self.kind, self.other_kind = kinds
        self.watching, self.odd, self.odd_kind = watching, odd, odd_kind
        self.which, self.draw, self.draw_arguments, self.written = target, draw, draw_arguments, written
        self.target = -1
        self.drawn = <const uint64_t *>drawn
        self.most = most
        self.known = {}
        self.exchange = NULL
        if exchange is not None:
            self.exchange = <dlpack_exchange *>PyCapsule_GetPointer(exchange, "dlpack_exchange_api")
            if self.exchange.major != 1 or self.exchange.look == NULL:
                self.exchange = NULL

    cdef bytes _seen(self, object tensor, object initializer, dlpack_tensor *found, int64_t *size):
        """Cache key of a fill's parameters; None if the tensor is not supported here."""
        cdef dlpack_facts facts
        cdef int64_t reach = 1
        cdef int axis
        if self.exchange == NULL or (type(tensor) is not self.kind and type(tensor) is not self.other_kind):
            return None
        if self.exchange.look(<void *>tensor, found) != 0:
            PyErr_Clear()
            return None
        if found.device_type != 1 or found.axes > 8 or found.lanes != 1 or found.data == NULL:
            return None
        for axis in range(found.axes - 1, -1, -1):
            if found.shape[axis] != 1 and found.strides != NULL and found.strides[axis] != reach:
                return None
            reach *= found.shape[axis]
            if reach > self.most:
                return None
            facts.shape[axis] = found.shape[axis]
        if reach == 0:
            return None
        size[0] = reach
        facts.initializer = <uint64_t><void *>initializer
        facts.format = (<uint64_t>found.axes << 16) | (<uint64_t>found.code << 8) | found.bits
        return PyBytes_FromStringAndSize(<char *>&facts, 16 + 8 * found.axes)

    def learn(self, tensor, initializer, Sampling sampling not None):
        """Stores the parameters for fills of such tensors."""
        cdef dlpack_tensor found
        cdef int64_t size
        seen = self._seen(tensor, initializer, &found, &size)
        if seen is not None:
            if len(self.known) >= 4096:
                self.known.clear()
            self.known[seen] = sampling, initializer  # kept alive, because the cache key has its address

    def fill(self, tensor, initializer):
        """Fills a tensor with the next bits of the generator. Returns whether it did."""
        cdef dlpack_tensor found
        cdef int64_t size
        cdef Sampling sampling
        cdef uint32_t[4] key
        cdef fastinit_region region
        seen = self._seen(tensor, initializer, &found, &size)
        numbers = None if seen is None else self.known.get(seen)
        if numbers is None:
            return False
        for ask in <tuple>self.watching:
            if ask():
                return False
        for ask in <tuple>self.odd:
            if ask(tensor):
                return False
        if type(tensor) is self.kind:
            for ask in <tuple>self.odd_kind:
                if ask(tensor):
                    return False
        if self.target < 0:
            self.target = self.which()
        try:
            self.written((tensor,))
        except RuntimeError:
            return False
        self.draw(*<tuple>self.draw_arguments)
        sampling = <Sampling>(<tuple>numbers)[0]
        key[0], key[1], key[2], key[3] = <uint32_t>self.drawn[0], <uint32_t>(self.drawn[0] >> 32), 0, 0
        region.base, region.start, region.streamed, region.axes = <char *>found.data + found.byte_offset, 0, 0, 1
        region.extent[0], region.index_stride[0], region.byte_stride[0] = size, 1, found.bits // 8
        with nogil:
            fastinit_fill(self.target, &sampling.c, key, &region, 0, size)
        return True


def compare_run(int target, Sampling sampling not None, tuple key_words, size_t address, uint64_t start, uint64_t count,
                uint64_t itemsize, uint64_t block, size_t scratch, size_t marks):
    """Compares contiguous memory with elements [start, start + count) of the global tensor, in the calling thread.

    The elements are generated in `scratch`, `block` at a time. A block that differs sets its byte of `marks`. Returns
    whether any block differs.
    """
    cdef uint32_t[4] key = [key_words[0], key_words[1], key_words[2], key_words[3]]
    cdef bint differs
    with nogil:
        differs = fastinit_compare(target, &sampling.c, key, <const char *>address, start, count, itemsize, block,
                                   <char *>scratch, <unsigned char *>marks)
    return differs


def call_in_environment(function, tuple args, dict kwargs):
    """Calls a function in the floating-point environment of stream v1, and restores the caller's.

    Python handles no signals inside the two switches, so a handler that raises cannot leave a mixed environment.
    """
    cdef uint64_t saved = fastinit_enter_environment()
    try:
        return function(*args, **kwargs)
    finally:
        fastinit_leave_environment(saved)


cdef class Recalled:
    """Calls a cached function if its cache can distinguish all arguments, otherwise another function.

    It can if every argument is a bool, an int, a str, None or a float other than negative zero.
    """

    cdef object recall, otherwise

    def __init__(self, recall, otherwise):
        self.recall, self.otherwise = recall, otherwise

    def __call__(self, *values):
        cdef double number
        for value in values:
            if type(value) is float:
                number = value
                if number == 0.0 and signbit(number):
                    return self.otherwise(*values)
            elif value is not None and type(value) is not bool and type(value) is not int and type(value) is not str:
                return self.otherwise(*values)
        return self.recall(*values)


def same(a, b):
    """Whether two values have the same type and the same bits. 0.0 and -0.0 differ, and so do 1 and True."""
    cdef double x, y
    cdef Py_ssize_t i
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) is float:
        x, y = a, b
        return memcmp(&x, &y, sizeof(double)) == 0
    if type(a) is tuple:
        if len(<tuple>a) != len(<tuple>b):
            return False
        for i in range(len(<tuple>a)):
            if not same((<tuple>a)[i], (<tuple>b)[i]):
                return False
        return True
    return bool(a == b) and (type(a) is int or not isinstance(a, Number) or repr(a) == repr(b))


def targets():
    """Names of the compiled targets, the best one first, and whether this processor supports them."""
    return [(fastinit_targets[i].name.decode(), bool(fastinit_targets[i].supported()))
            for i in range(fastinit_target_count)]


def address(cnp.ndarray array not None):
    """Address of the array's first element."""
    return <size_t>cnp.PyArray_DATA(array)


def array_at(size_t address, tuple shape, tuple byte_strides, int type_number):
    """Memory as a writable array of a built-in NumPy type. The array does not own the memory."""
    cdef cnp.npy_intp[64] extents
    cdef cnp.npy_intp[64] strides
    cdef Py_ssize_t axis
    for axis in range(len(shape)):
        extents[axis], strides[axis] = shape[axis], byte_strides[axis]
    return cnp.PyArray_New(cnp.ndarray, <int>len(shape), extents, type_number, strides, <void *>address, 0,
                           cnp.NPY_ARRAY_WRITEABLE, None)


def equal_memory(size_t one, size_t other, size_t size):
    """Whether two pieces of memory of `size` bytes are equal."""
    cdef int difference
    with nogil:
        difference = memcmp(<const void *>one, <const void *>other, size)
    return difference == 0


def advise_huge_pages(size_t address, size_t size):
    """Asks the operating system for huge pages within this memory, if it supports them."""
    with nogil:
        fastinit_advise_huge_pages(<void *>address, size)


def narrow(size_t values, size_t count, int dtype, size_t out):
    """Rounds float32 values at one address to a narrower dtype at another."""
    with nogil:
        fastinit_narrow(<const float *>values, count, dtype, <char *>out)


def orthogonal_sizes(int64_t m, int64_t n):
    """For an m x n matrix: number of pieces, elements of the factors, and elements of a thread's scratch."""
    return fastinit_orthogonal_pieces(n), fastinit_orthogonal_factors(m, n), fastinit_orthogonal_scratch(m)


def orthogonal_reflectors(int target, int dtype, size_t normals, int64_t m, int64_t n, int64_t piece, size_t factors,
                          size_t scratch):
    """The first phase of kernels/orthogonal.h for one piece. Memory is given by addresses."""
    with nogil:
        fastinit_reflectors(target, dtype, <void *>normals, m, n, piece, <void *>factors, <void *>scratch)


def orthogonal_columns(int target, int dtype, size_t factors, int64_t m, int64_t n, int64_t piece, double gain,
                       size_t scratch, size_t out, int64_t row_stride, int64_t column_stride):
    """The second phase of kernels/orthogonal.h for one piece."""
    with nogil:
        fastinit_columns(target, dtype, <void *>factors, m, n, piece, gain, <void *>scratch, <void *>out, row_stride,
                         column_stride)
