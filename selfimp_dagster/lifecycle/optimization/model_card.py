"""The README.md that lies beside a candidate's weights."""

import json
from typing import Any

from selfimp_dagster.campaign import MethodChoice
from selfimp_dagster.lifecycle.policy import Policy


def model_card(policy: Policy, choice: MethodChoice, facts: dict[str, Any]) -> str:
    """A model card in the hub's format: what this was trained from, on what, and how."""
    campaign = policy.campaign
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [self-improvement, selfimp_dagster]
---

# {policy.round}

Candidate of round `{policy.round}` of the self-improvement campaign `{campaign.name}`.

| | |
|---|---|
| base model | `{campaign.model}` |
| starting weights (sha256) | `{policy.policy_hash}` |
| these weights (sha256) | `{facts["policy_hash"]}` |
| skills | {", ".join(campaign.skills)} |
| rows trained on | {facts["rows"]}, as its `selected_subset` says |
| final training loss | {facts["final_loss"]:.4f} |

{_method("Acquisition", campaign.recipe.acquisition)}

{_method("Optimization", choice)}

Whether it was promoted is said by the round's `eval_report`, not here. Load it with
`AutoModelForCausalLM.from_pretrained(folder)`.
"""


def _method(stage: str, choice: MethodChoice) -> str:
    parameters = json.dumps(choice.parameters, indent=2, sort_keys=True)
    return f"{stage} `{choice.method}`:\n\n```json\n{parameters}\n```"
