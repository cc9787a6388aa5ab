"""Findings and verdicts: whether a model is initialized well, from its parameters and from measurements of one run.

Adapters describe a model's parameters (:class:`Held`) and its layers in the order of execution (:class:`Measured`).
:func:`judge_parameters` and :func:`judge_chain` judge them; an :class:`Audit` holds the result. Defaults of frameworks,
of their model libraries and of this library never trigger a finding.

==================  =================================================================================================
kind                of a parameter
==================  =================================================================================================
not finite          contains NaN or infinity
untouched           unwritten memory: values above 1e6, or more than one in a thousand below 1e-25 and not 0; or a
                    weight of zeros before an activation, or in a model in which most weights are zero
not as recorded     differs from the record: trained, or damaged
not as written      has a program, but agrees with neither the author's code nor a recipe
constant            a weight with one value everywhere
constant rows       units of a weight with one value everywhere, other than 0
identical rows      units with the same weights, which always learn the same
identical tensors   two trainable weights with the same values, not copied by the author's code
tied                one tensor in two of the framework's layers of the same type, neither an embedding
scale               see :func:`fastinit.audits.scales.wrong_scales`; or moments that differ from the program's
==================  =================================================================================================

A frozen parameter can trigger only NaN and unwritten memory. A parameter that agrees with its program can trigger only
two findings: memory that the author never wrote, and a scale from the fans that ``torch.nn.init`` reads off the shape
of a grouped or transposed convolution, if they matter and no norm follows. Anything else becomes a note.

==================  =================================================================================================
kind                of a note
==================  =================================================================================================
zero                a weight of zeros that may be intended: a head, or a branch that begins closed
constant, ...       a finding, except that the author's code wrote it
scale               likewise; or a convolution with fans read off its shape, if it is unknown whether a norm follows
==================  =================================================================================================

A layer that ran can be ``dead``. The layer that breaks the chain is reported as ``vanishing``, ``exploding`` or
``symmetric``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from fastinit.audits.measuring import Measured
from fastinit.audits.propagation import finite, judged
from fastinit.audits.scales import PEERS, WrongScale, is_weight, place_of, remedy, wrong_scales
from fastinit.audits.values import Held, Seen, seen
from fastinit.models.records import Record

__all__ = ["Audit", "Finding", "judge_chain", "judge_parameters"]

DEAD: Final = 0.9
# Maximum growth of the gradients' variance per batch norm before a rectifier.
NORM_GROWTH: Final = math.pi / (math.pi - 1)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with a parameter or a layer.

    Attributes
    ----------
    name : str
        Name of the parameter or layer.
    kind : str
        Kind of finding, from the table in :mod:`fastinit.audits.judging`.
    message, remedy : str
        The observation with the expectation, and the fix.

    Examples
    --------
    >>> import fastinit
    >>> finding = fastinit.Finding("head.weight", "constant", "all 12 values are 0.0", "initialize_(model)")
    >>> print(finding.name, finding.kind)
    head.weight constant
    """

    name: str
    kind: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}: {self.message}" + (f"\n    {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit. Truthy (and `ok`) if there are no findings. ``str(found)`` gives a list and a table.

    Attributes
    ----------
    findings : tuple of Finding
        The problems.
    layers : tuple of Measured
        The layers, in the order of execution; empty without a batch.
    verdict : {"healthy", "vanishing", "exploding", "symmetric", "not run"}
        Whether the signal survives.
    reason : str
        The verdict in words.
    notes : tuple of Finding
        Observations that are sound by design, such as a head of zeros, or were written by the author's code.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> from fastinit.extending import Held, judge_parameters
    >>> weight = Held(fastinit.Parameter("head.weight", (4, 3), layer="Linear"), np.full((4, 3), 0.5))
    >>> findings, notes = judge_parameters([weight])
    >>> found = fastinit.Audit(findings, notes=notes)
    >>> found.ok, [finding.kind for finding in found.findings]
    (False, ['constant'])
    """

    findings: tuple[Finding, ...]
    layers: tuple[Measured, ...] = ()
    verdict: str = "not run"
    reason: str = "no batch was given"
    notes: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok

    def as_dict(self) -> dict[str, Any]:
        """The audit in a form that JSON can hold. Numbers that are not finite become None."""
        layers = []
        for layer in self.layers:
            row = asdict(replace(layer, weight=None))
            row = {key: finite(value) for key, value in row.items()}
            layers.append(row | {"weight": None if layer.weight is None else layer.weight.name})
        found = {what: [asdict(one) for one in getattr(self, what)] for what in ("findings", "notes")}
        return {"verdict": self.verdict, "reason": self.reason, **found, "layers": layers}

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["nothing found"]
        lines += [f"note: {note.name}: {note.message}" for note in self.notes]
        if self.layers:
            rows: list[tuple[str, ...]] = [("layer", "width", "Var(out)", "Var(grad)", "response", "dead")]
            for layer in self.layers:
                numbers = (layer.variance, layer.gradient_variance, layer.response)
                shown = ("" if number is None else f"{number:.3g}" for number in numbers)
                rows.append((layer.name, str(layer.width), *shown, "" if layer.dead is None else f"{layer.dead:.0%}"))
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            rest = ("  ".join(map(str.rjust, row[1:], widths[1:])) for row in rows)
            lines += [f"{row[0].ljust(widths[0])}  {line}" for row, line in zip(rows, rest, strict=True)]
        return "\n".join((*lines, f"{self.verdict}: {self.reason}"))


def judge_parameters(
    parameters: Iterable[Held], record: Record | None = None, layers: Sequence[Measured] = ()
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Findings and notes about the parameters of a model, in order. A parameter has at most one about its values.

    Scales are judged by :func:`fastinit.audits.scales.wrong_scales`.

    Parameters
    ----------
    parameters : iterable of Held
        The parameters; read once, one at a time.
    record : Record, optional
        Record of the fill. If given, its values and stds are the expected ones.
    layers : sequence of Measured
        Measurements of the layers in the order of execution, if the model ran. They show which weights a norm follows.

    Returns
    -------
    (tuple of Finding, tuple of Finding)
        The findings, and the notes.

    Raises
    ------
    ValueError
        If the record has no entry for a parameter.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> from fastinit.extending import Held
    >>> weight = Held(fastinit.Parameter("head.weight", (4, 3), layer="Linear"), np.full((4, 3), 0.5))
    >>> findings, notes = judge_parameters([weight])
    >>> [finding.kind for finding in findings], notes
    (['constant'], ())
    """
    entries = {} if record is None else {entry.name: entry for entry in record}
    found: list[Seen] = []
    for held in parameters:
        name = held.parameter.name
        if record is not None and name not in entries:
            raise ValueError(f"the record lacks the parameter {name!r}")
        if held.values.size:
            found.append(seen(held, entries.get(name)))
    weights = [one for one in found if is_weight(one.sampled.parameter)]
    wrong = wrong_scales(one.sampled for one in weights if one.is_scaled)
    zero = _zeros_that_stop_a_signal(weights)
    normed = _followed_by_a_norm(layers)
    findings: list[Finding] = []
    notes: list[Finding] = []
    first: dict[Any, Seen] = {}
    for one in found:
        parameter = one.sampled.parameter
        name = parameter.name
        if one.kind:
            findings.append(Finding(name, one.kind, one.message, remedy(parameter)))
        elif name in zero:
            findings.append(Finding(name, "untouched", zero[name], remedy(parameter)))
        else:
            kind, message, noted = _unusual(one, wrong.get(name), normed.get(name, one.normed))
            if kind:
                mend = "" if kind == "zero" else remedy(parameter)
                (notes if noted else findings).append(Finding(name, kind, message, mend))
        if one.shared_with:
            message = f"{', '.join(one.shared_with)} is the same tensor, in a layer of the same type"
            findings.append(Finding(name, "tied", message, "create one layer per use, unless they should share"))
        same = first.setdefault((one.digest, parameter.shape), one) if one.digest else one
        if same is not one and same.trainable and one.trainable and not one.is_copy_of(same):
            message = f"its values equal those of {same.sampled.parameter.name}"
            mend = "draw each with its own key; a copied layer has the values of the first"
            findings.append(Finding(name, "identical tensors", message, mend))
    return tuple(findings), tuple(notes)


def _unusual(one: Seen, wrong: WrongScale | None, normed: bool | None) -> tuple[str, str, bool]:
    """Kind and message of an observation, and whether it is only a note; empty if there is none."""
    if one.remark[0]:
        return one.remark[0], f"{one.remark[1]}, as the author's code writes it", True
    if one.is_zero and is_weight(one.sampled.parameter):
        return "zero", "all its elements are 0, as in a head or a branch that begins closed", True
    if wrong is None or (wrong.misread and normed) or (wrong.unless_last and not normed):
        return "", "", False
    if wrong.misread:
        after = "; a following norm would compensate" if normed is None else ", and no norm follows"
        return "scale", wrong.message + after, normed is None or wrong.slight
    return "scale", wrong.message + (", as the author's code writes it" if one.as_written else ""), one.as_written


def _followed_by_a_norm(layers: Sequence[Measured]) -> dict[str, bool]:
    """For each weight of a linear map that ran, whether a norm compensates its scale after every call.

    Other layers may come before the norm, but not a sum with values from before the map.
    """
    found: dict[str, bool] = {}
    for number, layer in enumerate(layers):
        if layer.weight is not None:
            name = layer.weight.name
            found[name] = found.get(name, True) and _reaches_a_norm(layers, number)
    return found


def _reaches_a_norm(layers: Sequence[Measured], number: int) -> bool:
    if all(one.reads is None for one in layers):  # unknown: require that no other map comes first
        after = next((one for one in layers[number + 1 :] if one.norm or one.weight is not None), None)
        return after is not None and after.norm
    return any(layers[later].norm for later in _reached(layers, number, by_all=False))


def _zeros_that_stop_a_signal(weights: Sequence[Seen]) -> dict[str, str]:
    """Weights of zeros that are mistakes, by name, with the reason.

    A head, the last layer of a branch or an adapter may begin at zero. Zeros are a mistake if most weights of the model
    are zero, as in unfilled memory; if the weights in the same place of other blocks are not zero; or if an activation
    follows, so that the units before it cannot learn.
    """
    zero = [one for one in weights if one.is_zero and not one.as_written]
    if 2 * len(zero) > len(weights):
        count = f"{len(zero)} of the model's {len(weights)} weights"
        text = "all its elements are 0" + (f", as those of {count}" if len(weights) > 1 else "")
        return {one.sampled.parameter.name: text for one in zero}
    found = {}
    for parameter in (one.sampled.parameter for one in zero):
        place = place_of(parameter)
        peers = [one.sampled.rms for one in weights if place is not None and place_of(one.sampled.parameter) == place]
        if parameter.activation is not None:
            found[parameter.name] = f"all its elements are 0, and {parameter.activation} follows"
        elif peers.count(0.0) == 1 and len(peers) > PEERS:
            found[parameter.name] = (
                f"all its elements are 0, unlike {len(peers) - 1} weights in the same place of other blocks"
            )
    return found


# Layers


def judge_chain(layers: Sequence[Measured], output: float | None = None) -> tuple[str, str, list[Finding]]:
    """Verdict on layers that ran, the reason, and the findings: the layer that breaks the chain, and dead layers.

    The chain consists of the linear maps in the order of execution. The forward verdict is
    :func:`fastinit.audits.propagation.judged` on the variances of their outputs, taken after a norm if one comes before
    the next map. Growth by norms is not an explosion. The last map, and maps parallel to it, may begin small, or at
    zero if their input is not zero. The backward verdict uses the running maximum of `response`, because a single
    branch (attention queries) may legitimately have little. The layer that breaks the chain is the one with the largest
    single jump in the direction of the verdict.

    Two kinds of networks change the gradients by design. Each batch norm before a rectifier makes them grow by up to pi
    / (pi - 1), independent of the weights, so only growth beyond that is an explosion. Layers that are `closed`, such
    as a branch that begins at zero, hold gradients back, and a layer that `starts` has its own input, as in a decoder.
    Gradients vanish only if they do so between two such layers.

    A layer is dead if more than nine in ten units get no gradient although the next layer gets some, or if the next
    layer's output is zero; a closed layer in between excuses it. A weight of zeros is dead if it gets no gradient and
    feeds nothing that could let one pass, as in a branch that begins closed at both ends.

    G. Yang et al., "A mean field theory of batch normalization", 2019.

    Parameters
    ----------
    layers : sequence of Measured
        The layers, in the order of execution.
    output : float, optional
        The `response` of the model's output: the end of the chain if several layers give outputs.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> from fastinit.extending import measured
    >>> weight = fastinit.Parameter("up.weight", (64, 128), ("Linear",))
    >>> sizes = [np.eye(4) * 10.0**-exponent for exponent in range(0, 20, 4)]
    >>> layers = [measured(f"layer {number}", size, weight=weight) for number, size in enumerate(sizes)]
    >>> judge_chain(layers)[0]
    'vanishing'
    """
    chain = [layer for layer in layers if layer.weight is not None]
    findings = [*_dead(layers), *_never_opened(layers)]
    if not chain:
        return "not run", "no linear layer ran", []
    bad = next((layer for layer in chain if not math.isfinite(layer.variance)), None)
    if bad is not None:
        reason = f"the activations overflow in {bad.name}"
        return "exploding", reason, [*findings, _broken(bad, "exploding", reason)]
    verdict, reason, bad, variances = _forward(layers, chain)
    if verdict == "healthy":
        verdict, reason, bad = _backward(layers, chain, variances, output)
    if bad is None:
        return verdict, reason, findings
    return verdict, reason, [*findings, _broken(bad, verdict, reason)]


def _forward(
    layers: Sequence[Measured], chain: Sequence[Measured]
) -> tuple[str, str, Measured | None, Sequence[float]]:
    """Verdict, reason, the layer that breaks the chain, and the judged variances."""
    # exclude heads and branches at the end that begin at zero
    closing = itertools.takewhile(lambda one: one.closed and not one.variance and one.received != 0, reversed(chain))
    chain = chain[: len(chain) - len(list(closing))]
    # other branches that begin at zero do not break the chain either
    kept = [layer for layer in chain if layer.variance > 0]
    if not chain:
        return "healthy", "every map begins at zero", None, [1.0]
    if chain[-1].variance == 0:
        silent = len(list(itertools.takewhile(lambda layer: layer.variance == 0, reversed(chain))))
        return "vanishing", "the output of the last layer is zero", chain[-silent], []
    identical = [layer.identical for layer in chain[:-1]] or [False]
    variances = _after_norms(layers, kept)
    verdict, reason = judged(variances, [1.0], identical)
    if verdict == "exploding":
        variances = _without_norms(layers, kept)
        verdict, reason = judged(variances, [1.0], identical)
    elif verdict == "vanishing":
        heads = _heads(kept)
        if len(kept) - heads > 1:  # judge without the heads, which may begin small
            verdict, reason = judged(variances[:-heads], [1.0], identical)
            variances = variances if verdict == "vanishing" else variances[:-heads]
    bad = None
    if verdict == "symmetric":
        bad = chain[identical.index(True)]
    elif verdict != "healthy":
        bad = kept[_largest_jump(variances, falling=verdict == "vanishing") + 1]
    return verdict, reason, bad, variances


def _heads(chain: Sequence[Measured]) -> int:
    """Number of maps at the end of a chain with the same input as the last one, including it."""
    last = chain[-1]
    beside = (bool(one.reads) and (one.reads, one.received) == (last.reads, last.received) for one in chain[-2::-1])
    return 1 + len(list(itertools.takewhile(bool, beside)))


def _after_norms(layers: Sequence[Measured], kept: Sequence[Measured]) -> list[float]:
    """Variances of the outputs of linear maps, or of the norm before the next map."""
    found: list[float] = []
    normed = True
    for layer in layers:
        if any(layer is one for one in kept):
            found.append(layer.variance)
            normed = False
        elif layer.weight is not None:
            normed = True  # a map whose output is zero
        elif layer.norm and layer.variance > 0 and not normed:
            found[-1], normed = layer.variance, True
    return found


def _without_norms(layers: Sequence[Measured], kept: Sequence[Measured]) -> list[float]:
    """Variances of linear maps with the factors of the norms divided out."""
    found: list[float] = []
    gained, before = 1.0, kept[0].variance
    for layer in layers:
        if layer.norm and layer.variance > 0:
            gained, before = gained * layer.variance / before, layer.variance
        elif any(layer is one for one in kept):
            found.append(layer.variance / gained)
            before = layer.variance
    return found


def _backward(
    calls: Sequence[Measured], chain: Sequence[Measured], variances: Sequence[float], output: float | None
) -> tuple[str, str, Measured | None]:
    places = [number for number, layer in enumerate(calls) if layer.response is not None]
    layers = [calls[place] for place in places]
    responses = [math.inf if math.isnan(layer.response or 0.0) else layer.response or 0.0 for layer in layers]
    healthy = judged(variances, [1.0], [False])[1]
    if not responses:
        return "healthy", healthy, None
    up_to = list(itertools.accumulate(responses, max))
    if up_to[0] == 0:
        passed = next((number for number, response in enumerate(responses) if response > 0), 0)
        return "vanishing", "no gradient reaches the first layer", _weighted(layers, chain, passed)
    notes = []
    for first, last in _between_closed(layers, places):
        reached = list(itertools.accumulate(responses[first:last], max))
        verdict, reason = judged([1.0], reached, [False]) if reached[0] > 0 else ("healthy", "")
        if verdict != "healthy":
            number = _largest_jump(reached, falling=verdict == "exploding")
            return verdict, reason, _weighted(layers, chain, first + number + 1)
    after = list(itertools.accumulate([output or 0.0, *reversed(responses)], max))[:0:-1]
    verdict, reason = judged([1.0], after, [False]) if min(after) > 0 else ("healthy", "")
    if verdict == "exploding":
        after = [value / growth for value, growth in zip(after, _growth_of_norms(layers), strict=True)]
        verdict, grown = judged([1.0], after, [False])
        if verdict == "exploding":
            number = _largest_jump(after, falling=True)
            return verdict, grown, _weighted(layers, chain, number + 1)
        notes = ["; the gradients grow no more than norms explain"]
    verdict, reason = judged(variances, up_to, [False])
    if verdict == "vanishing":
        notes.append("; branches that begin closed hold the gradients back")
    return "healthy", "".join([reason if verdict == "healthy" else healthy, *notes]), None


def _between_closed(layers: Sequence[Measured], places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pieces of a network between layers that hold gradients back or start a new piece, as (first, end).

    A layer starts a new piece if it reads an input of the model, or the input of the piece itself, and its response
    exceeds that of everything before it in the piece. A decoder's word embedding and an attention's values (beside the
    queries) do so; a table of positions does not. `places` are the positions of the layers among all calls.
    """
    first, largest = 0, 0.0
    for number, layer in enumerate(layers):
        response = layer.response or 0.0
        beside = bool(layer.reads) and min(layer.reads or ()) < places[first]
        if layer.closed or ((layer.starts or beside) and response >= largest):
            if first < number:
                yield first, number
            first, largest = number + layer.closed, 0.0
        largest = 0.0 if layer.closed else max(largest, response)
    if first < len(layers):
        yield first, len(layers)


def _growth_of_norms(layers: Sequence[Measured]) -> list[float]:
    """Growth of the gradients that norms explain, from the last layer back to each layer."""
    norms = list(itertools.accumulate(reversed([layer.norm for layer in layers])))[::-1]
    return [NORM_GROWTH ** min(count, 1000) for count in norms]


def _weighted(layers: Sequence[Measured], chain: Sequence[Measured], number: int) -> Measured:
    """The first linear map at or after a layer."""
    return next((layer for layer in layers[number:] if layer.weight is not None), chain[-1])


def _largest_jump(values: Sequence[float], falling: bool) -> int:
    """Index of the value before the largest step in one direction. Values are >= 0."""
    logs = [math.log(max(value, 1e-300)) for value in values]
    jumps = [one - two if falling else two - one for one, two in itertools.pairwise(logs)]
    return jumps.index(max(jumps))


def _broken(layer: Measured, verdict: str, reason: str) -> Finding:
    return Finding(layer.name, verdict, reason, "" if layer.weight is None else remedy(layer.weight))


def _dead(layers: Sequence[Measured]) -> Iterator[Finding]:
    for number, layer in enumerate(layers):
        if layer.weight is None or layer.dead is None or layer.dead <= DEAD or layer.variance == 0:
            continue
        for after in layers[number + 1 :]:
            if after.closed:
                break
            if after.weight is not None and after.dead is not None:
                if after.dead <= DEAD or after.variance == 0:
                    text = f"{layer.dead:.0%} of its {layer.width} units get no gradient from any example of the batch"
                    yield Finding(layer.name, "dead", text, remedy(layer.weight))
                break


def _never_opened(layers: Sequence[Measured]) -> Iterator[Finding]:
    """Findings for maps of zeros without a gradient, unless a closed layer after them has input and opens first."""
    for number, layer in enumerate(layers):
        if layer.weight is None or not layer.closed or layer.variance or layer.dead != 1:
            continue
        reached = _reached(layers, number, by_all=True)
        if reached and not any(layers[later].closed and layers[later].received for later in reached):
            text = (
                "all its weights are 0, and no gradient reaches them: neither they nor the layers they feed can learn"
            )
            yield Finding(layer.name, "dead", text, remedy(layer.weight))


def _reached(layers: Sequence[Measured], number: int, by_all: bool) -> list[int]:
    """Later calls whose inputs derive from the output of a call, in order.

    With `by_all` all inputs must derive from it. Otherwise the earliest input must, and the others may come from any
    later call. A sum with values from before the call never qualifies.
    """
    reached: list[int] = []
    for later in range(number + 1, len(layers)):
        reads = layers[later].reads
        if reads and all(one in (number, *reached) for one in (reads if by_all else reads[:1])):
            reached.append(later)
    return reached
