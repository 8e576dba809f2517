"""What the measures of the four dimensions are, in plain words; docs/dimensions.md defines them exactly."""

DIMENSIONS = {
    "accuracy": "how good the weights are",
    "stability": "whether they stay what they were",
    "growth": "whether they still learn, and at what price",
    "safety": "whether the figures can be trusted",
}

MEASURES = {
    "anchor_accuracy": "Share of the anchor items answered right, on the mix.",
    "fresh_accuracy": "Share of the round's fresh items answered right, on the mix.",
    "leakage_gap": "Anchor minus fresh accuracy. A rise means that the anchor items have become known.",
    "pass_at_1": "Chance that one sampled answer to a train task is right.",
    "pass_at_k": "Chance that at least one of k sampled answers is right: what is within reach at all.",
    "worst_skill_change": "The skill that fell most against the best weights of the line so far.",
    "worst_guard_change": "The guard skill that fell most against the best weights of the line so far.",
    "rewording_consistency": "Share of anchor items answered alike however they are worded.",
    "length_ratio": "Length of the candidate's answers over the incumbent's.",
    "gain": "Candidate minus incumbent on the mix, over the items of the promotion test.",
    "gain_per_1000_seconds": "The gain for the time that the round took.",
    "gain_per_million_tokens": "The gain for the tokens that the round read and generated.",
    "tokens_per_kept_sample": "Tokens sampled for each row that the selection kept.",
    "pass_at_1_change": "Chance with one sampled answer, candidate minus incumbent.",
    "pass_at_k_change": "Chance with k answers, candidate minus incumbent. A fall: the reach shrinks.",
    "sharpening_only": "1 if answers only became alike: one answer is better, the reach smaller.",
    "hardest_difficulty_solved": "The highest level of difficulty of which more than half is solved.",
    "distinct_solutions": "Different right answers to a task among k samples.",
    "distinct_1": "Different words over all words in the answers to a task: variety.",
    "distinct_2": "Different pairs of words over all pairs in the answers to a task.",
    "token_entropy": "How uncertain the weights are of the next token. Near 0, sampling finds nothing new.",
    "verifier_precision": "Of the answers that the verifier accepts in a trial, the share that is right.",
    "verifier_recall": "Of the right answers in that trial, the share that the verifier accepts.",
    "verifier_error_rate": "Share of answers that the verifier failed on.",
    "empty_rate": "Share of answers without text.",
    "truncation_rate": "Share of answers cut off at the token limit.",
    "contamination_rate": "Share of samples that quoted an evaluation item, and were dropped.",
    "alarms": "Hard alarms of the verdict.",
}
