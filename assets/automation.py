"""When Dagster asks for a run by itself: an input's content changed, the code changed, or the artefact is missing.

Dagster's own `since_last_handled` forgets a change that it sees in the same look as a request or a new materialisation:
of ten videos that are copied one after the other, those after the first look would be lost. Here a change counts until a
run is asked for after it was seen.
"""

import dagster as dg

from ops.stages import Stage

Condition = dg.AutomationCondition


def automation(stage: Stage, sources: str) -> Condition:
    """Condition of a stage's asset. sources: name of the observed folders.

    A shard's stages are asked for in one run, and wait while another run makes what they read. What reads all shards
    waits until none of its inputs is about to change: it would be trained on what is just being replaced.
    """
    due = changed(stage) | unmade()
    # an observed source counts as missing for ever: it has observations, no materialisations
    missing = Condition.any_deps_missing().ignore(dg.AssetSelection.assets(sources))
    due = due & ~missing & ~Condition.in_progress()
    if stage.partitioned:
        return due & ~Condition.any_deps_in_progress()
    return due & ~Condition.any_deps_match(any_change() | Condition.in_progress())


def changed(stage: Stage) -> Condition:
    """True from the look that sees a change until a run is asked for, in that look or a later one."""
    inputs = Condition.any_deps_match(Condition.data_version_changed())
    if stage.reads:
        # input and artefact change together in a run that makes both, in this order. Where the daemon looks in the very
        # moment in which such a run ends, it may ask once more: that run finds all up to date and only records it
        inputs = inputs & ~Condition.newly_updated() & ~Condition.in_progress()
    return kept(inputs | Condition.code_version_changed())


def kept(trigger: Condition) -> Condition:
    """The trigger, and its memory, which begins a look later and so outlives requests made before it."""
    gone = (~trigger).newly_true()
    handled = Condition.newly_requested() | Condition.initial_evaluation()
    return trigger | gone.since(handled)


def unmade() -> Condition:
    """Missing; what failed waits for a change, it would be asked for again and again."""
    return (Condition.missing() & ~Condition.execution_failed()).since_last_handled()


def any_change() -> Condition:
    """Of an input: it is itself about to be asked for, or waits for it."""
    return kept(Condition.any_deps_match(Condition.data_version_changed()) | Condition.code_version_changed())
