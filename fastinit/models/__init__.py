"""Whole models: an initializer for each parameter, and records of fills. Independent of any framework.

rules           rules that match parameters and give their initializers
layers          defaults of the frameworks' layers, and better initializers for them
distributions   comparison of initializers
recipes         lists of rules for any model
explaining      comparison of the recipes for a model
planning        entries, checked before anything is written and matched with records
records         records of how every tensor of a model was filled
configs         JSON form of initializers
digests         digests of bytes
"""

from fastinit.models.configs import initializer_config, initializer_from_config
from fastinit.models.digests import digest
from fastinit.models.explaining import Explanation, explained
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
    "Explanation",
    "Parameter",
    "Recipe",
    "Record",
    "Rule",
    "UnmatchedParameter",
    "assigned",
    "check_entry",
    "compare_digests",
    "digest",
    "explained",
    "initializer_config",
    "initializer_from_config",
    "planned",
    "read_record",
    "recipe_for",
    "recipe_named",
    "recorded_entries",
]
