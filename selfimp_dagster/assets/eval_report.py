import dagster as dg
import polars as pl

from selfimp_dagster import __version__
from selfimp_dagster.assets.checkpoint import checkpoint
from selfimp_dagster.assets.incumbent_policy import incumbent_policy
from selfimp_dagster.assets.refined_outputs import refined_outputs
from selfimp_dagster.lifecycle.evaluation.environments import sample_episode, summarised
from selfimp_dagster.lifecycle.evaluation.items import LEFT_OUT
from selfimp_dagster.lifecycle.evaluation.monitors.reading import alarms_told, readings_frame
from selfimp_dagster.lifecycle.evaluation.report import dimensions_of, read_monitors, read_report
from selfimp_dagster.lifecycle.evaluation.stage import evaluate_round
from selfimp_dagster.lifecycle.ledger import read_line
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.partitions import rounds
from selfimp_dagster.pictures import accuracy_over_rounds, cost_over_rounds, dimensions_over_rounds, scores
from selfimp_dagster.presentation import lineage_links, materialized, picture, readable_failures, table
from selfimp_dagster.records import EPISODES, TWINS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


def _twins(twins: pl.DataFrame) -> pl.DataFrame:
    """The candidate's answers, those first that the transformation of the item changed for the worse."""
    return (
        twins.filter(pl.col("arm") == "candidate")
        .sort(pl.col("score") - pl.col("item_score"), "twin_id")
        .select("transformation", "skill", "prompt", "answer", "response", "score", "item_id", "item_score")
    )


@dg.asset(
    partitions_def=rounds,
    deps=[incumbent_policy, checkpoint, refined_outputs],
    group_name="round",
    owners=["team:selfimp"],
    kinds={"pytorch", "scipy"},
    code_version=__version__,
    pool="gpu",
)
def eval_report(context: dg.AssetExecutionContext, workbench: WorkbenchResource) -> dg.MaterializeResult:
    """Incumbent and candidate on the same items, and the verdict on the candidate."""
    with readable_failures():
        key = RoundKey.parse(context.partition_key)
        artifact = evaluate_round(workbench.open(context), key)
        report = read_report(workbench.artifacts, key)
        policy, _ = read_policy(workbench.artifacts, key)
        monitors = read_monitors(workbench.artifacts, key)
        measured = dimensions_of(workbench.artifacts, policy.line)
        line = read_line(workbench.artifacts, key).to_dicts()
    verdict = report.verdict
    episodes = artifact.table("episodes", EPISODES)
    rows = [score.model_dump() for score in report.scores]
    accuracies = {f"{score.arm}_{score.suite}": score.accuracy for score in report.scores}
    return materialized(
        artifact,
        {
            "verdict": verdict.sentence,
            "decision": line[-1]["decision"],
            "alarms": alarms_told(monitors),
            "promoted": verdict.promoted,
            "status": line[-1]["status"],
            **accuracies,
            "gain": verdict.gain,
            "p_value": verdict.p_value,
            "alpha": verdict.alpha,
            **lineage_links(workbench.artifacts, "eval_report", key),
            "scores": picture(scores(rows), "accuracy of both arms"),
            "accuracy_over_line": picture(accuracy_over_rounds(line), "accuracy of the line up to here"),
            "cost_over_line": picture(cost_over_rounds(line), "cost of the line up to here"),
            "suites": table(pl.DataFrame(rows), limit=20),
            "skills": table(pl.DataFrame([skill.model_dump() for skill in report.skills]), limit=50),
            "monitors": table(readings_frame(monitors), limit=len(monitors)),
            "twins": table(_twins(artifact.table("twins", TWINS)), limit=50),
            "left_out": table(pl.DataFrame(artifact.facts["left_out"], schema=LEFT_OUT), limit=50),
            "dimensions": table(measured.filter(pl.col("round") == str(key)).drop("round"), limit=100),
            "dimensions_over_rounds": picture(
                dimensions_over_rounds(measured.to_dicts()), "the four dimensions"
            ),
            **_played(episodes),
            "fingerprint": report.fingerprint,
            "round_tokens": report.summary.tokens,
            "round_seconds": round(report.summary.seconds, 1),
        },
    )


def _played(episodes: pl.DataFrame) -> dict[str, dg.MetadataValue]:
    """The episodes by environment and arm, and one of them turn by turn."""
    shown = sample_episode(episodes)
    if shown is None:
        return {}
    speaker = {"user": shown["environment"], "assistant": shown["arm"]}
    said = [(speaker[message["role"]], message["content"]) for message in shown["messages"]]
    sample = pl.DataFrame(said, schema={"who": pl.String, "said": pl.String}, orient="row")
    return {
        "episodes": table(summarised(episodes), limit=20),
        "sample_episode": table(sample, limit=100),
    }
