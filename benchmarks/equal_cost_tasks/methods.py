"""The methods at a cost, and the recipes of ours.

The recipes were fixed before the first result, but for three kinds. The `honest` ones and `unlabeled students` were
found on the test scores of seeds 0 to 2 of the task `letter`, the `cross-fitted` ones and `honest teachers and one
student` on those of seeds 10 to 12 of `bible`, `letter` and three tasks of the border. So no claim about them may rest
on these tasks.

A recipe is a function of the cost that returns the members to average, in the order in which they are trained. The
last of them is the single model. It returns nothing for a cost at which it is no different from another recipe.
"""

from equal_cost_tasks.member import FoldMember, Lesson, Member, MixedMember, cost_of

COSTS = (1, 2, 4, 8)
PLAIN, LONGER, INDEPENDENT, SNAPSHOTS = "plain", "longer", "independent", "snapshots"
OURS, UNLABELED = "ours", "ours unlabeled"

GENTLE = Lesson(temperature=1.0, label_weight=0.5)
HOT = Lesson(temperature=4.0, label_weight=0.3)
ANNEALED = Lesson(temperature=1.0, label_weight=(0.1, 0.9))
HONEST = Lesson(label_weight=0.5, softened="honest")
CROSS_FITTED = Lesson(label_weight=0.5, softened="cross-fitted")
CALIBRATED = Lesson(label_weight=0.5, softened="calibrated", balanced=True)
ON_MIXED_IMAGES = Lesson(label_weight=0.5, softened="calibrated")
BY_TEACHERS_ALONE = Lesson(label_weight=0.0, softened="calibrated", balanced=True)


def independent(cost, kind=Member):
    return [kind(number=number) for number in range(cost)]


def longer(cost, kind=Member):
    return [kind(length=cost)]


def mixed_independent(cost):
    """The same on mixed images."""
    return independent(cost, MixedMember)


def mixed_longer(cost):
    """The same on mixed images."""
    return longer(cost, MixedMember)


def snapshots(cost):
    """Warm restarts on the labels (Huang et al., 2017)."""
    members = [Member()]
    while len(members) < cost:
        members.append(Member(start=members[-1]))
    return members


def chain(cost, lesson=GENTLE, unlabeled=False, number=0):
    """Generations as long as a plain training. Each is taught by the one before."""
    members = [Member(number=number)]
    while len(members) < cost:
        members.append(Member(teachers=(members[-1],), lesson=lesson, unlabeled=unlabeled))
    return members


def hot_chain(cost):
    """The same at temperature 4 and label weight 0.3."""
    return chain(cost, HOT)


def annealed_chain(cost):
    """The same with a label weight that rises from 0.1 to 0.9 in each generation."""
    return chain(cost, ANNEALED)


def long_pair(cost, lesson=HOT, unlabeled=False):
    """A teacher that is trained for half of the cost, and a student as long."""
    if cost < 4:
        return []
    teacher = Member(length=cost // 2)
    return [teacher, Member(length=cost // 2, teachers=(teacher,), lesson=lesson, unlabeled=unlabeled)]


def several_teachers(cost, lesson=GENTLE, unlabeled=False, kinds=(Member, Member)):
    """Independent models for half of the cost. Their average teaches as many students."""
    if cost < 4:
        return []
    of_teachers, of_students = kinds
    teachers = independent(cost // 2, of_teachers)
    students = [
        of_students(number=number, teachers=tuple(teachers), lesson=lesson, unlabeled=unlabeled)
        for number in range(cost // 2)
    ]
    return [*teachers, *students]


def several_teachers_one_student(cost, lesson=GENTLE, unlabeled=False, kinds=(Member, Member)):
    """Independent models for half of the cost. Their average teaches one student for the other half."""
    if cost < 4:
        return []
    of_teachers, of_student = kinds
    teachers = independent(cost // 2, of_teachers)
    return [*teachers, of_student(length=cost // 2, teachers=tuple(teachers), lesson=lesson, unlabeled=unlabeled)]


def pairs(cost, lesson=GENTLE, unlabeled=False):
    """Independent models for half of the cost. Each teaches a student of its own."""
    if cost < 4:
        return []
    teachers = independent(cost // 2)
    # The first pair is the beginning of a chain.
    return [*teachers, *(Member(teachers=(each,), lesson=lesson, unlabeled=unlabeled) for each in teachers)]


def taught_restarts(cost):
    """Warm restarts, each taught by the snapshot before."""
    members = [Member()]
    while len(members) < cost:
        members.append(Member(start=members[-1], teachers=(members[-1],), lesson=GENTLE))
    return members


def honest_chain(cost):
    """Generations whose teachers are as unsure of the training examples as of others. Only students are averaged."""
    return chain(cost, HONEST)[1:]


def honest_students(cost):
    """As many students of one plain model as the cost allows, taught like this."""
    return [Member(number=number, teachers=(Member(),), lesson=HONEST) for number in range(cost - 1)]


def honest_teachers(cost):
    """Plain models for half of the cost. Their average teaches as many students, which are averaged."""
    return several_teachers(cost, HONEST)[cost // 2 :]


def honest_teachers_one_student(cost):
    """Plain models for half of the cost. Their average teaches one student for the other half."""
    return several_teachers_one_student(cost, HONEST)[cost // 2 :]


def honest_students_and_teacher(cost):
    """`honest students`, averaged with their teacher."""
    return [Member(), *honest_students(cost)]


def honest_teachers_and_students(cost):
    """`honest teachers`, averaged with their students."""
    return several_teachers(cost, HONEST)


def honest_teachers_and_one_student(cost):
    """`honest teachers, one student`, and the teachers are averaged with the student."""
    return several_teachers_one_student(cost, HONEST)


def honest_long_pair(cost):
    """A teacher that is trained for half of the cost, and a student as long, taught like this. Both are averaged."""
    return long_pair(cost, HONEST)


def cross_fitted_students(cost):
    """Two models, each trained on one half of the examples, teach students of all. Only students are averaged."""
    return [Member(number=number, teachers=fold_members(2), lesson=CROSS_FITTED) for number in range(cost - 1)]


def cross_fitted_one_student(cost):
    """Models that are each trained without one fold, for half of the cost. Their average teaches one student."""
    if cost < 4:
        return []
    folds = cost // 2 + 1
    return [Member(length=cost - folds + 1, teachers=fold_members(folds), lesson=CROSS_FITTED)]


def fold_members(folds):
    return tuple(FoldMember(fold=fold, folds=folds) for fold in range(folds))


def mixed_students(cost):
    """Plain models for half of the cost. Their average, calibrated, teaches as many students on mixed images."""
    return several_teachers(cost, ON_MIXED_IMAGES, kinds=(Member, MixedMember))


def one_mixed_student(cost):
    """The same with one student, trained for the other half. It alone is averaged with nothing."""
    return several_teachers_one_student(cost, ON_MIXED_IMAGES, kinds=(Member, MixedMember))[cost // 2 :]


def all_mixed(cost):
    """`mixed students` whose teachers were trained on mixed images, too."""
    return several_teachers(cost, ON_MIXED_IMAGES, kinds=(MixedMember, MixedMember))


def all_mixed_one_student(cost):
    """The same with one student, trained for the other half."""
    return several_teachers_one_student(cost, ON_MIXED_IMAGES, kinds=(MixedMember, MixedMember))[cost // 2 :]


def unlabeled_students(cost):
    """Half of the models are a plain one and its `honest students`. Their average teaches the others, calibrated."""
    teachers = tuple(honest_students(cost // 2)) or (Member(),)
    return [Member(number=number, teachers=teachers, lesson=CALIBRATED, unlabeled=True) for number in range(cost // 2)]


def unlabeled_one_student(cost):
    """Plain models for half of the cost. Their average, calibrated, teaches one student for the other half."""
    return several_teachers_one_student(cost, CALIBRATED, unlabeled=True)[cost // 2 :]


def unlabeled_teachers_and_one_student(cost):
    """`unlabeled, one student`, and the teachers are averaged with the student."""
    return several_teachers_one_student(cost, CALIBRATED, unlabeled=True)


def unlabeled_one_mixed_student(cost):
    """The student of `unlabeled, one student` on mixed images, which have no labels (Beyer et al., 2022)."""
    kinds = (Member, MixedMember)
    return several_teachers_one_student(cost, BY_TEACHERS_ALONE, unlabeled=True, kinds=kinds)[cost // 2 :]


def unlabeled_chain(cost):
    return chain(cost, GENTLE, unlabeled=True)


def unlabeled_long_pair(cost):
    return long_pair(cost, GENTLE, unlabeled=True)


def unlabeled_several_teachers(cost):
    return several_teachers(cost, GENTLE, unlabeled=True)


# The recipes of each method. The first is the method's own. Those with mixed images need a task of images.
RECIPES = {
    PLAIN: {"plain": independent},
    LONGER: {"longer": longer, "mixed longer": mixed_longer},
    INDEPENDENT: {"independent": independent, "mixed independent": mixed_independent},
    SNAPSHOTS: {"snapshots": snapshots},
    OURS: {
        "chain": chain,
        "hot chain": hot_chain,
        "long pair": long_pair,
        "several teachers": several_teachers,
        "several teachers, one student": several_teachers_one_student,
        "pairs": pairs,
        "taught restarts": taught_restarts,
        "annealed chain": annealed_chain,
        "honest chain": honest_chain,
        "honest students": honest_students,
        "honest teachers": honest_teachers,
        "honest teachers, one student": honest_teachers_one_student,
        "honest students and teacher": honest_students_and_teacher,
        "honest teachers and students": honest_teachers_and_students,
        "honest teachers and one student": honest_teachers_and_one_student,
        "honest long pair": honest_long_pair,
        "cross-fitted students": cross_fitted_students,
        "cross-fitted, one student": cross_fitted_one_student,
        "mixed students": mixed_students,
        "one mixed student": one_mixed_student,
        "all mixed": all_mixed,
        "all mixed, one student": all_mixed_one_student,
    },
    UNLABELED: {
        "unlabeled chain": unlabeled_chain,
        "unlabeled long pair": unlabeled_long_pair,
        "unlabeled several teachers": unlabeled_several_teachers,
        "unlabeled students": unlabeled_students,
        "unlabeled, one student": unlabeled_one_student,
        "unlabeled, teachers and one student": unlabeled_teachers_and_one_student,
        "unlabeled, one mixed student": unlabeled_one_mixed_student,
    },
}


def members_of(method, recipe, cost):
    """Return the members of a recipe at a cost; none if there are none at this cost."""
    if (cost == 1) != (method == PLAIN):
        return []
    members = RECIPES[method][recipe](cost)
    if members and cost_of(members) != cost:
        raise ValueError(f"The recipe {recipe!r} costs {cost_of(members)} plain trainings, not {cost}.")
    return members
