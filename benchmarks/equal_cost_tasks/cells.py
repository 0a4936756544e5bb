"""The results that are wanted: one for each recipe, cost, and for a single model or an average."""

from equal_cost_tasks.member import cost_of
from equal_cost_tasks.methods import COSTS, INDEPENDENT, LONGER, OURS, PLAIN, RECIPES, SNAPSHOTS, UNLABELED, members_of

KEYS = ("task", "method", "recipe", "cost", "seed", "averaged")
# Added to the name of a recipe whose members' weights are fitted to validation data.
FITTED = ", fitted weights"


def key_of(line):
    return tuple(line[key] for key in KEYS)


def cells_of(arguments, task, seed):
    """Return the wanted results of a task and seed, by the keys above, cheap ones first.

    `trained_as` is the recipe by which members are trained: that of `recipe`, without what is fitted afterwards.
    """
    methods = arguments.methods or list(RECIPES)
    unknown = set(methods) - set(RECIPES)
    if unknown:
        raise ValueError(f"`--methods` must be of {list(RECIPES)}, received: {sorted(unknown)}.")
    cells = []
    for cost in sorted(set(arguments.costs)):
        if cost not in COSTS:
            raise ValueError(f"`--costs` must be of {list(COSTS)}, received: {cost}.")
        for method in methods:
            for recipe in RECIPES[method]:
                if arguments.recipes is None or recipe in arguments.recipes:
                    cells += [{"task": task, "seed": seed, **cell} for cell in _of_recipe(method, recipe, cost)]
    return cells


def _of_recipe(method, recipe, cost):
    if not members_of(method, recipe, cost):
        return []
    cell = {"method": method, "recipe": recipe, "cost": cost, "averaged": False, "trained_as": recipe}
    average = {**cell, "averaged": True}
    fitted = {**average, "recipe": recipe + FITTED}
    if method in (PLAIN, LONGER):
        return [cell]
    if method == INDEPENDENT:
        return [average, fitted]
    if method in (SNAPSHOTS, OURS, UNLABELED):
        # Of some recipes the last member did not need all others: a single model that cost less.
        last = members_of(method, recipe, cost)[-1:]
        singles = [cell] if 2 * cost_of(last) > cost else []
        return singles + ([average, fitted] if len(members_of(method, recipe, cost)) > 1 else [])
    raise ValueError(f"Unknown method: {method!r}.")
