"""Inference refinement (survey section 5): better answers without changing weights."""

from selfimp_dagster.lifecycle.refinement import (  # noqa: F401  registers the methods
    best_of_n,
    contrastive_decoding,
    critic,
    debate,
    experience_memory,
    least_to_most,
    mixture_of_agents,
    plan_and_solve,
    prompt_search,
    react,
    reflexion,
    self_consistency,
    self_refine,
    test_time_training,
    tool_making,
    tree_of_thoughts,
    universal_self_consistency,
    weighted_voting,
    workflow_search,
)
