"""Models of the configurations of diffusers and timm, which lie in a ``config.json`` as those of transformers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from fastinit.extending import shown

__all__ = ["STEMS", "library_of", "model_of"]

STEMS: Final = {"transformers": "model", "diffusers": "diffusion_pytorch_model", "timm": "model"}
"""The name of a checkpoint's files in each library."""


def library_of(configuration: Mapping[str, Any]) -> str:
    """The library that a configuration is written for.

    Parameters
    ----------
    configuration : mapping
        What a ``config.json`` holds.

    Examples
    --------
    >>> library_of({"_class_name": "UNet2DModel", "sample_size": 32})
    'diffusers'
    >>> library_of({"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {}})
    'timm'
    """
    if "model_type" not in configuration:
        if "_class_name" in configuration:
            return "diffusers"
        if isinstance(configuration.get("architecture"), str):
            return "timm"
    return "transformers"


def model_of(configuration: Mapping[str, Any], folder: str, library: str) -> nn.Module:
    """The model of a configuration of diffusers or timm, built by that library; no file but ``config.json`` is read.

    Parameters
    ----------
    configuration : mapping
        What the ``config.json`` holds.
    folder : str
        Where it lies.
    library : {"diffusers", "timm"}

    Raises
    ------
    Exception
        The library's own, if it has no such model or cannot build it.
    ImportError
        If the library is not installed.
    """
    made: nn.Module
    if library == "timm":
        import timm

        made = timm.create_model(f"local-dir:{folder}", pretrained=False)
        return made
    import diffusers

    name = configuration["_class_name"]
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise ValueError(f"diffusers has no model {shown(name)}")
    made = kind.from_config(dict(configuration))  # type: ignore[no-untyped-call]
    return made
