"""Whole models: what fills each parameter, and the record of it. Nothing here knows a framework.

rules           which parameters, and how to fill them
layers          what the frameworks' layers do by themselves, and what suits them
distributions   initializers compared
recipes         rules in order, for any model
planning        entries that are checked before anything is written, and matched again by a record
records         how every tensor of a model was filled
configs         what JSON holds of an initializer
digests         digests of bytes
"""

from fastinit.models.configs import initializer_config, initializer_from_config
from fastinit.models.digests import digest
from fastinit.models.planning import check_entry, compare_digests, planned, read_record, recorded_entries
from fastinit.models.recipes import AUTO, FANS, OWN, RECIPES, TORCH, assigned, recipe_for, recipe_named
from fastinit.models.records import Entry, Record
from fastinit.models.rules import Parameter, Recipe, Rule, UnmatchedParameter

__all__ = [
    "AUTO",
    "FANS",
    "OWN",
    "RECIPES",
    "TORCH",
    "Entry",
    "Parameter",
    "Recipe",
    "Record",
    "Rule",
    "UnmatchedParameter",
    "assigned",
    "check_entry",
    "compare_digests",
    "digest",
    "initializer_config",
    "initializer_from_config",
    "planned",
    "read_record",
    "recipe_for",
    "recipe_named",
    "recorded_entries",
]
