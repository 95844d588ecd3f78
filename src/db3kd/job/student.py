"""What the file of a recipe's student says of it."""

import hashlib
import json

from db3kd.config.reading import resolved
from db3kd.config.recipe import Recipe
from db3kd.config.secrets import secrets_of, without_secrets
from db3kd.data.digest import combined
from db3kd.job.sets import Sets
from db3kd.job.sources import digest_of_code, own_modules
from db3kd.job.teacher import TeacherPipeline, fingerprint
from db3kd.student.card import Origin, StudentCard
from db3kd.teachers.base import STATE

BOUGHT = ("data", "spend", "grow", "synthesis", "label")  # tables of what labels are bought with


def card_of(recipe: Recipe, pipeline: TeacherPipeline, sets: Sets) -> StudentCard:
    """What a student of a recipe is, before its training; costs no query.

    `sets`: the images, after they were `matched`.
    """
    wanted = recipe.student
    secrets = secrets_of([json.dumps(resolved(recipe))])
    told = {
        without_secrets(name, secrets): without_secrets(text, secrets)
        for name, text in pipeline.parts.items()
        if not name.startswith(STATE)
    }
    return StudentCard(
        network=wanted.network,
        width=wanted.width,
        timm=wanted.timm,
        factory=wanted.factory,
        shape=sets.shape,
        classes=sets.names,
        white=sets.white,
        code="" if wanted.factory is None else _code_of(wanted.factory),
        origin=Origin(recipe=_digest(recipe), teacher=told),
    )


def _digest(recipe: Recipe) -> str:
    """A digest of what decides a student's labels, wherever the run lies."""
    tables = resolved(recipe)
    known = {name: tables[name] for name in (*BOUGHT, "seed")} | {"teacher": fingerprint(recipe)}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _code_of(factory: str) -> str:
    """A digest of the code behind a factory that was called."""
    modules = own_modules(factory.partition(":")[0])
    return combined("code", (f"{name} {digest_of_code(at)}" for name, at in modules.items()))
