"""Refined generation: the policy answers, and then corrects its answer (survey 4.3, generation R)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, answered
from selfimp_dagster.lifecycle.acquisition.dialogues import (
    going_on,
    questions,
    spoken,
    together,
    turn,
)
from selfimp_dagster.registry import method

_AGAIN = "There may be a mistake in that answer. Check it and answer the question again. {question}"
_CRITICISE = "Check your answer step by step. Say in one sentence what is wrong with it, or that nothing is."
_REVISE = "Answer the question again with that in mind. {question}"


class SelfCorrection(BaseModel):
    """Parameters of `self_correction`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first_answers: int = Field(default=2, ge=1, description="First answers drawn for each task.")
    corrections: int = Field(default=2, ge=1, description="Corrections drawn of each answer.")
    turns: int = Field(default=1, ge=1, description="Times that an answer is corrected, one after the other.")
    criticised: bool = Field(
        default=False, description="The policy says what is wrong with its answer before it corrects it."
    )
    trained_in: Literal["task", "dialogue"] = Field(
        default="dialogue",
        description="dialogue: corrections are trained on as replies in their dialogue, so that the policy "
        "learns to correct; task: as answers to the plain task.",
    )
    sampling: Sampling = Field(default=Sampling(), description="How the tokens of answers are drawn.")
    criticism: Sampling = Field(
        default=Sampling(max_new_tokens=64), description="How the tokens of criticisms are drawn."
    )


@method(
    "acquisition",
    "self_correction",
    parameters=SelfCorrection,
    section="4.3",
    paper="arXiv:2503.08681",
)
def self_correction(context: AcquisitionContext, parameters: SelfCorrection) -> Corpus:
    """The policy answers train tasks and corrects its answers (STaSC, RISE, SELF).

    In: train tasks; signal: none here, the recipe's rewards say which corrections are right and the step
    `improvement` which are better than what they correct; out: first answers (generation SE) and corrections
    (generation R), each with the answer that it corrects as its parent. Nobody tells the policy whether its
    answer is right (Moskvoretskii et al., arXiv:2503.08681). With `turns` a chain of corrections is drawn, of
    which only the first correction of each answer goes on (RISE, arXiv:2407.18219); with `criticised` the
    policy's own feedback stands before each correction (SELF, arXiv:2310.00533). Feedback is no sample: it
    stands in the messages of what was said after it.
    """
    tasks = context.draw(context.size, context.skill_weights)
    asked = questions(tasks, context)
    drawn = [answered(tasks, context, parameters.first_answers, parameters.sampling)]
    answers = spoken(drawn[0])
    for number in range(1, parameters.turns + 1):
        if parameters.criticised:
            criticised = [(row, going_on(row, _CRITICISE)) for row in answers]
            feedback = turn(
                criticised, context, parameters.criticism, generation="I", label=f"criticising {number}"
            )
            by_id = {row["sample_id"]: row for row in answers}
            chats = [
                (
                    by_id[said["parent_sample_id"]],
                    going_on(said, _REVISE.format(question=asked[said["task_id"]])),
                )
                for said in spoken(feedback)
            ]
        else:
            chats = [(row, going_on(row, _AGAIN.format(question=asked[row["task_id"]]))) for row in answers]
        corrected = turn(
            chats,
            context,
            parameters.sampling,
            generation="R",
            label=f"correcting {number}",
            times=parameters.corrections,
        )
        drawn.append(corrected)
        answers = spoken(corrected.unique("parent_sample_id", keep="first", maintain_order=True))
    return Corpus(tasks, together(*drawn).unique("sample_id", keep="first", maintain_order=True))
