"""An audit: a recipe as it is taken to find out how many answers a copy needs."""

import msgspec

from db3kd.config.recipe import Recipe

SUFFIX = "-audit"  # of the run's folder: an audit buys in another order than an ordinary run
TARGETS = (0.80, 0.90, 0.95, 0.99)  # agreement
SEEDS = 3  # students at each step


def audited(recipe: Recipe, seeds: int = SEEDS) -> Recipe:
    """A recipe as an audit takes it: a folder of its own, and a way that can be bought in steps.

    `seeds`: how many students there are; the recipe's seeds come first, and then others.

    >>> from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
    >>> recipe = Recipe(run="runs/a", data=DataConfig(train="d"),
    ...                 teacher=TeacherConfig(kind="onnx", file="t.onnx"),
    ...                 student=StudentConfig(network="lenet5", seeds=(1,)))
    >>> found = audited(recipe)
    >>> found.run, found.student.methods, found.student.seeds
    ('runs/a-audit', ('grown',), (1, 0, 2))
    """
    named = recipe.student.seeds
    others = [seed for seed in range(seeds + len(named)) if seed not in named]
    student = msgspec.structs.replace(
        recipe.student,
        methods=("pseudo",) if recipe.data.train is None else ("grown",),
        seeds=(*named, *others)[:seeds],
    )
    return msgspec.structs.replace(recipe, run=recipe.run + SUFFIX, student=student)
