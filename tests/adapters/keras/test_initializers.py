"""fastinit.adapters.keras.initializers, class by class, beside Keras's own."""

import inspect
import json
import math
import warnings

import keras
import numpy as np
from keras.src.initializers.random_initializers import compute_fans

import fastinit
from fastinit.adapters import numpy as numpy_adapter
from fastinit.adapters.keras import bases, versions
from fastinit.adapters.keras import initializers as ours
from fastinit.dtypes import DTYPES

theirs = keras.initializers
BACKEND = keras.config.backend()

# Keras's classes with the arguments of their documentation, one fastinit initializer that says the same, and a shape
CLASSES = {
    "Zeros": ({}, fastinit.Zeros(), (3, 5)),
    "Ones": ({}, fastinit.Ones(), (3, 5)),
    "Constant": ({"value": 0.3}, fastinit.Constant(0.3), (3, 5)),
    "Identity": ({"gain": 2.0}, fastinit.Identity(2.0), (3, 5)),
    "RandomNormal": ({"mean": 1.0, "stddev": 0.5}, fastinit.Normal(1.0, 0.5), (31, 7)),
    "RandomUniform": ({"minval": -1.0, "maxval": 0.5}, fastinit.Uniform(-1.0, 0.5), (31, 7)),
    "TruncatedNormal": ({"mean": 1.0, "stddev": 0.5}, fastinit.TruncatedNormal(1.0, 0.5), (31, 7)),
    "VarianceScaling": (
        {"scale": 0.1, "mode": "fan_out", "distribution": "uniform"},
        fastinit.VarianceScaling(0.1, "fan_out", "uniform"),
        (3, 3, 5, 7),
    ),
    "GlorotUniform": ({}, fastinit.glorot_uniform(), (31, 7)),
    "GlorotNormal": ({}, fastinit.glorot_truncated_normal(), (3, 3, 5, 7)),
    "HeUniform": ({}, fastinit.he_uniform(), (31, 7)),
    "HeNormal": ({}, fastinit.he_truncated_normal(), (31, 7)),
    "LecunUniform": ({}, fastinit.lecun_uniform(), (31, 7)),
    "LecunNormal": ({}, fastinit.lecun_truncated_normal(), (31, 7)),
    "Orthogonal": ({"gain": 1.5}, fastinit.Orthogonal(1.5), (31, 7)),
}
EXTRA = {
    "GlorotUntruncatedNormal": ({}, fastinit.glorot_normal(), (31, 7)),
    "HeUntruncatedNormal": ({}, fastinit.he_normal(), (31, 7)),
    "LecunUntruncatedNormal": ({}, fastinit.lecun_normal(), (31, 7)),
    "DeltaOrthogonal": ({"gain": 1.5}, fastinit.DeltaOrthogonal(1.5), (3, 3, 5, 7)),
    "ICNR": ({}, fastinit.ICNR(fastinit.he_truncated_normal(), order="subpixel"), (3, 3, 5, 8)),
    "ZerO": ({}, fastinit.ZerO(), (7, 5)),
}
UNSEEDED = ("Zeros", "Ones", "Constant", "Identity", "ZerO")


def bits(tensor, dtype):
    """The bits of a tensor of any backend."""
    if BACKEND == "torch":
        import torch

        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(np.asarray(tensor)).reshape(-1).view(np.uint8)


def expected(initializer, shape, key, dtype):
    memory = np.empty(shape, f"u{DTYPES[dtype].itemsize}")
    return fastinit.fill(memory, initializer, key, dtype=dtype).reshape(-1).view(np.uint8)


def made(name, seed=3, **more):
    arguments = (CLASSES | EXTRA)[name][0]
    seeded = {} if name in UNSEEDED else {"seed": seed}
    return getattr(ours, name)(**arguments, **seeded, **more)


def refusal(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except Exception as error:
        return error
    raise AssertionError(f"{arguments} {named} was not refused")


def test_every_public_name_of_keras_is_here():
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public <= set(ours.__all__), public - set(ours.__all__)
    assert all(hasattr(ours, name) for name in ours.__all__)
    for name in public:  # aliases are the same class, as in Keras
        same = {other for other in public if getattr(theirs, other) is getattr(theirs, name)}
        assert len({getattr(ours, other) for other in same}) == 1, same


AXES = {"input_axes": None, "output_axes": None}  # of ours in every release of Keras


def test_the_parameters_are_those_of_keras():
    for name in CLASSES:
        own, original = (inspect.signature(getattr(place, name)).parameters for place in (ours, theirs))
        shared = [(p.name, p.default) for p in own.values() if p.kind is not p.VAR_KEYWORD]
        wanted = [(p.name, p.default) for p in original.values()]
        if issubclass(getattr(theirs, name), theirs.VarianceScaling) and not versions.AXES_OF_FANS:
            wanted += AXES.items()
        assert shared == wanted, name


def test_subclasses_attributes_and_configurations_are_those_of_keras():
    for name, (arguments, *_) in CLASSES.items():
        seeded = {} if name in UNSEEDED else {"seed": 3}
        own, original = (getattr(place, name)(**arguments, **seeded) for place in (ours, theirs))
        assert isinstance(own, getattr(theirs, name))
        assert isinstance(own, ours.VarianceScaling) == isinstance(original, theirs.VarianceScaling)
        assert vars(original).items() <= vars(own).items(), name
        wanted = original.get_config() | ({"gain": 2.0} if name == "Identity" else {})  # which Keras forgets
        if isinstance(original, theirs.VarianceScaling):
            wanted |= AXES
        if seeded:
            wanted["seed"] = {"needs": "import fastinit.adapters.keras", "stream_version": 1, "seed": 3}
        assert own.get_config() == wanted, name


def test_the_values_are_those_of_the_core_in_every_dtype():
    for name, (_, initializer, shape) in (CLASSES | EXTRA).items():
        for dtype in DTYPES:
            found = made(name)(shape, dtype=dtype)
            assert keras.backend.standardize_dtype(found.dtype) == dtype
            assert tuple(found.shape) == shape
            assert (bits(found, dtype) == expected(initializer, shape, fastinit.Key(3), dtype)).all(), (name, dtype)


def test_the_values_are_those_of_the_numpy_adapter():
    found = np.asarray(keras.ops.convert_to_numpy(ours.HeNormal(seed=5)((64, 16))))
    assert (found == numpy_adapter.he_truncated_normal((64, 16), key=5)).all()
    found = np.asarray(keras.ops.convert_to_numpy(ours.random_uniform(-1.0, 1.0, seed=5)((64, 16))))
    assert (found == numpy_adapter.uniform((64, 16), key=5, low=-1.0, high=1.0)).all()


def test_the_distributions_are_those_of_keras():
    for name, (arguments, _, shape) in CLASSES.items():
        if name in (*UNSEEDED, "Orthogonal"):
            continue
        shape = (*shape[:-1], shape[-1] * 1000)  # noqa: PLW2901
        own, original = (
            np.asarray(keras.ops.convert_to_numpy(getattr(place, name)(**arguments, seed=7)(shape)))
            for place in (ours, theirs)
        )
        scale = original.std()
        assert abs(own.std() / scale - 1) < 0.02, name
        assert abs(own.mean() - original.mean()) < 0.03 * scale, name
        tails = np.quantile([own.ravel(), original.ravel()], (0.002, 0.998), axis=1)
        assert abs(tails[:, 0] - tails[:, 1]).max() < 0.15 * scale, name  # cut where Keras cuts


def test_the_fans_are_those_of_keras():
    shapes = [(), (5,), (5, 7), (3, 5, 7), (3, 3, 1, 7), (3, 3, 8, 1), (2, 3, 4, 5, 6)]
    axes = [((), None, None), ((4, 5, 6), (0,), (1, 2)), ((4, 5, 6), (0, 1), (2,)), ((4, 5), (0, 1), (1,))]
    for mode in ("fan_in", "fan_out", "fan_avg"):
        for shape, ins, outs in [*((shape, None, None) for shape in shapes), *axes]:
            told = (math.prod(shape[axis] for axis in ins), math.prod(shape[axis] for axis in outs)) if ins else None
            if versions.AXES_OF_FANS:
                assert told in (None, compute_fans(shape, ins, outs))
            fan_in, fan_out = told or compute_fans(shape)
            fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
            for distribution in ("uniform", "truncated_normal", "untruncated_normal", "normal"):
                scaled = ours.VarianceScaling(1.7, mode, distribution, 0, ins, outs)
                std = scaled.fastinit_initializer(shape).sampling(shape).expected_std
                assert math.isclose(std, math.sqrt(1.7 / max(1, fan)), rel_tol=1e-12), (shape, mode, distribution)
                assert tuple(scaled(shape).shape) == shape


def test_true_fans_on_request():
    for options, shape, fan_in in [
        ({"kernel_layout": "...IM"}, (3, 3, 8, 2), 9),
        ({"groups": 4}, (3, 3, 2, 8), 18),
        ({"kernel_layout": "...OI", "transposed": True, "stride": (2, 2)}, (3, 3, 8, 6), 6 * 9 / 4),
        ({"kernel_layout": "VD"}, (100, 16), 1),
    ]:
        initializer = ours.HeUniform(seed=0, **options)
        std = initializer.fastinit_initializer(shape).sampling(shape).expected_std
        assert math.isclose(std, math.sqrt(2 / fan_in), rel_tol=1e-12), options
        assert bits(initializer.clone()(shape), "float32").tolist() == bits(initializer(shape), "float32").tolist()
    grouped = ours.GlorotUniform(groups=4).fastinit_initializer((3, 3, 2, 8))
    assert grouped.fans((3, 3, 2, 8)).fan_out == 18
    assert type(refusal(ours.HeUniform, input_axes=[0], output_axes=[1], groups=2)) is ValueError
    assert type(refusal(ours.HeUniform, kernel_layout_="IO")) is TypeError


def test_seeds():
    shape = (6, 5)
    for name in CLASSES | EXTRA:
        if name in UNSEEDED:
            continue
        shape = (CLASSES | EXTRA)[name][2]
        fixed = made(name)
        assert bits(fixed(shape), "float32").tolist() == bits(fixed(shape), "float32").tolist()
        drawn = made(name, seed=None)
        assert bits(drawn(shape), "float32").tolist() == bits(drawn(shape), "float32").tolist()
        assert bits(drawn(shape), "float32").tolist() != bits(made(name, seed=None)(shape), "float32").tolist()
        generator = keras.random.SeedGenerator(11)
        first, second = (bits(made(name, seed=generator)(shape), "float32").tolist() for _ in range(2))
        assert first != second
        again = made(name, seed=keras.random.SeedGenerator(11))
        assert [bits(again(shape), "float32").tolist() for _ in range(2)] == [first, second]
        initializer = (CLASSES | EXTRA)[name][1]
        assert first == expected(initializer, shape, fastinit.Key.from_words(11, 0), "float32").tolist()
        assert second == expected(initializer, shape, fastinit.Key.from_words(11, 1), "float32").tolist()
        key = fastinit.Key("a key").fold_in("layer")
        assert bits(made(name, seed=key)(shape), "float32").tolist() == (
            expected(initializer, shape, key, "float32").tolist()
        )
    high = keras.random.SeedGenerator(2**31 - 1)
    assert bits(ours.RandomNormal(0.0, 1.0, seed=high)((8,)), "float32").tolist() == (
        expected(fastinit.Normal(), (8,), fastinit.Key.from_words(2**31 - 1, 0), "float32").tolist()
    )


def test_configurations_go_round(tmp_path):
    written = {}
    for name in CLASSES | EXTRA:
        shape = (CLASSES | EXTRA)[name][2]
        for seed in (3, fastinit.Key(4)) if name not in UNSEEDED else (3,):
            initializer = made(name, seed=seed)
            wanted = bits(initializer(shape), "float32").tolist()
            config = json.loads(json.dumps(ours.serialize(initializer)))
            written[f"{name} {seed}"] = config
            for again in (
                initializer.clone(),
                type(initializer).from_config(initializer.get_config()),
                ours.get(config),
                ours.deserialize(config),
                keras.initializers.get(config),
                keras.initializers.deserialize(config),
            ):
                assert type(again) is type(initializer)
                assert bits(again(shape), "float32").tolist() == wanted, name
    (tmp_path / "initializers.json").write_text(json.dumps(written))


def test_names_and_other_identifiers():
    public = {name for name in dir(theirs) if isinstance(getattr(theirs, name), type)} - {"Initializer"}
    for name in public | {"normal", "uniform", "one", "zero"}:
        if "stft" not in name.lower():
            kerass = theirs.Constant if name.lower() == "constant" else type(theirs.get(name))  # which Keras cannot get
            assert type(ours.get(name)) is getattr(ours, kerass.__name__), name
    for name in CLASSES | EXTRA:
        assert type(theirs.get(f"fastinit>{name}")) is getattr(ours, name)
        assert type(ours.get(f"fastinit>{name}")) is getattr(ours, name)
    for name in ("zero_init", "zer_o"):
        assert type(ours.get(name)) is ours.ZerO is getattr(ours, name)
    config = theirs.serialize(theirs.HeNormal(seed=3))  # of Keras's own class
    assert type(ours.get(config)) is theirs.HeNormal  # it says where it is from, and what was saved keeps its values
    assert type(ours.get({"class_name": "GlorotUniform", "config": {"seed": 2}})) is ours.GlorotUniform
    assert ours.get(None) is None
    assert type(ours.get(ours.HeNormal)) is ours.HeNormal
    plain = theirs.HeNormal()
    assert ours.get(plain) is plain
    array = np.arange(6.0, dtype="float32").reshape(2, 3)
    assert (np.asarray(keras.ops.convert_to_numpy(ours.get(array)((2, 3)))) == array).all()
    for wrong in ("he_norm", {"class_name": "Nothing", "config": {}}, 3):
        assert type(refusal(ours.get, wrong)) is type(refusal(theirs.get, wrong)), wrong


def test_what_keras_refuses_is_refused_in_the_same_way():
    for name, arguments in [
        *((name, {"seed": seed}) for name in ("RandomNormal", "HeNormal", "Orthogonal") for seed in ("x", 1.5, [1])),
        ("VarianceScaling", {"scale": 0.0}),
        ("VarianceScaling", {"scale": -1.0}),
        ("VarianceScaling", {"mode": "fan"}),
        ("VarianceScaling", {"distribution": "cauchy"}),
        ("HeNormal", {"scale": 2.0}),
    ]:
        own, original = (refusal(getattr(place, name), **arguments) for place in (ours, theirs))
        assert type(own) is type(original), (name, arguments, own)
    for name, shape in [("Orthogonal", (3,)), ("Orthogonal", ()), ("Identity", (3,)), ("Identity", (3, 3, 3))]:
        own, original = (refusal(getattr(place, name)(), shape) for place in (ours, theirs))
        assert type(own) is type(original) is ValueError, (name, shape)


def test_bad_input():
    for name in EXTRA:  # Keras's own has no class for these
        for dtype in ("int32", "uint8", "bool", "complex64"):
            if "Untruncated" not in name:
                error = refusal(made(name), (3, 3, 4, 8), dtype=dtype)
                assert type(error) is ValueError, (name, dtype, error)
                assert dtype in str(error)
    assert "complex64" in str(refusal(ours.HeNormal(groups=2), (3, 3, 4, 8), dtype="complex64"))  # Keras has other fans
    assert type(refusal(ours.RandomNormal(), (3,), dtype="float99")) is ValueError
    for shape, kind in [((-1, 3), ValueError), ((2.5, 3), TypeError), ((None, 3), TypeError), ("ab", TypeError)]:
        assert type(refusal(ours.RandomNormal(), shape)) is kind, shape
    assert type(refusal(ours.ICNR, "zeros_")) is ValueError
    assert type(refusal(ours.ICNR, keras.initializers.HeNormal())) is ValueError
    assert type(refusal(ours.ICNR(), (3, 3, 5, 7))) is ValueError
    assert type(refusal(ours.DeltaOrthogonal(), (3, 3, 8, 7))) is ValueError


def test_configurations_are_read_strictly():
    for name in ("HeNormal", "Zeros", "ZerO", "Constant"):
        for version in (0, 2, "1", None, 1.0, True):
            error = refusal(getattr(ours, name).from_config, {"stream_version": version})
            assert type(error) is ValueError and "stream version" in str(error), (name, version)
        assert type(refusal(getattr(ours, name).from_config, {"seeds": 1})) is TypeError, name
    config = ours.HeNormal(seed=3, groups=2).get_config()
    for wrong in ({"stream_version": 2}, {"stream_version": True}):
        assert type(refusal(ours.HeNormal.from_config, config | {"seed": config["seed"] | wrong})) is ValueError
    assert type(refusal(ours.HeNormal.from_config, config | {"seed": config["seed"] | {"more": 1}})) is TypeError
    assert "twice" in str(refusal(ours.HeNormal.from_config, config | {"groups": 4}))
    for key in ([1, 2], "abcd", 5, [1, 2, 3, 2**40]):
        assert type(refusal(ours.HeNormal, seed={"key": key})) is ValueError, key
    assert type(refusal(ours.HeNormal, seed={"key": [1, 2, 3, 4.5]})) is TypeError
    flat = {"seed": 3, "groups": 2, "stream_version": 1, "input_axes": None, "output_axes": None}
    assert ours.HeNormal.from_config(flat).get_config() == config


OTHER = {  # what fastinit has no numbers for, and Keras's backends may have
    "complex64": (lambda place: place.RandomNormal(seed=3), "complex64"),
    "complex128": (lambda place: place.Orthogonal(seed=3), "complex128"),
    "int32": (lambda place: place.RandomUniform(seed=3), "int32"),
    "bool": (lambda place: place.HeNormal(seed=3), "bool"),
    "negative": (lambda place: place.RandomNormal(0.0, -1.0, seed=3), "float32"),
    "cut negative": (lambda place: place.TruncatedNormal(0.0, -1.0, seed=3), "float32"),
    "empty": (lambda place: place.RandomUniform(1.0, -1.0, seed=3), "float32"),
    "not a number": (lambda place: place.RandomNormal(math.nan, seed=3), "float32"),
    "infinite": (lambda place: place.RandomUniform(0.0, math.inf, seed=3), "float32"),
    "beyond": (lambda place: place.RandomNormal(0.0, 1e6, seed=3), "float16"),
    "constant beyond": (lambda place: place.Constant(1e6), "float16"),
    "scalar": (lambda place: place.GlorotNormal(seed=3), "complex64"),
}


def test_what_fastinit_has_no_numbers_for_is_kerass_and_said_once():
    def outcome(make, place, dtype):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                tensors = [make(place)((4, 4), dtype=dtype) for _ in range(2)]
            except Exception as error:
                return None, error, caught
        first, second = (np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in tensors)
        assert np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")
        return first, None, [one for one in caught if "fastinit" in str(one.message)]

    for name, (make, dtype) in OTHER.items():
        bases.notices.said.clear()
        wanted, problem, _ = outcome(make, theirs, dtype)
        found, error, said = outcome(make, ours, dtype)
        if wanted is None:  # Keras's own words, but for those of a backend's operations
            expected_kind = type(problem) if type(problem) in (TypeError, ValueError) else ValueError
            assert type(error) is expected_kind, (name, error)
        else:
            assert found.dtype == wanted.dtype and np.array_equal(found, wanted, equal_nan=found.dtype.kind in "fc"), (
                name
            )
            assert [one.filename for one in said] == [__file__], (name, said)
            assert "Keras's own numbers" in str(said[0].message)
    for seed in (keras.random.SeedGenerator(3), fastinit.Key(3)):
        bases.notices.said.clear()
        values, error, said = outcome(lambda place, seed=seed: place.RandomNormal(math.nan, seed=5), ours, "float32")
        assert np.isnan(values).all() and error is None and len(said) == 1


def test_shapes_are_refused_in_kerass_words():
    for name, shape in [("Orthogonal", (5,)), ("Orthogonal", ()), ("Identity", (5,)), ("Identity", (3, 4, 5))]:
        own, original = (refusal(getattr(place, name)(), shape) for place in (ours, theirs))
        assert type(own) is type(original) and str(own) == str(original)


def test_other_dtypes_of_what_draws_nothing_are_kerass():
    for dtype in ("int32", "bool", "complex64"):
        for name in ("Zeros", "Ones"):
            own, original = (getattr(place, name)()((2, 3), dtype=dtype) for place in (ours, theirs))
            assert np.array_equal(keras.ops.convert_to_numpy(own), keras.ops.convert_to_numpy(original))
            assert own.dtype == original.dtype
    own = ours.Constant(np.arange(3.0))((2, 3))
    assert np.array_equal(keras.ops.convert_to_numpy(own), [[0, 1, 2], [0, 1, 2]])


def test_constant_uniforms_and_tensors_without_elements():
    assert (np.asarray(keras.ops.convert_to_numpy(ours.RandomUniform(0.5, 0.5)((3,)))) == 0.5).all()
    for name in CLASSES | EXTRA:
        shape = (0, *(CLASSES | EXTRA)[name][2][1:])
        assert tuple(made(name)(shape).shape) == shape, name


def test_floatx_is_the_default_dtype():
    keras.config.set_floatx("float16")
    assert keras.backend.standardize_dtype(ours.HeNormal()((3, 3)).dtype) == "float16"
