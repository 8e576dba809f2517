"""What rewards say of answers of both arms, where some of them say nothing."""

from judges import reward, reward_context

from selfimp_dagster.lifecycle.evaluation.watch import rewarded


def test_answers_that_no_reward_judges_have_no_row() -> None:
    context = reward_context({"1+1": ["2", "3"]})
    answers = {"incumbent": context.samples.head(1), "candidate": context.samples.tail(1)}
    assert rewarded([reward("outcome", judged="between")], answers, "harness", context).is_empty()
    formed = reward("format", pattern=r"\d+")
    told = rewarded([reward("outcome", judged="between"), formed], answers, "harness", context)
    assert told.select("arm", "reward", "score").rows() == [
        ("incumbent", "format", 1.0),
        ("candidate", "format", 0.0),
    ]
