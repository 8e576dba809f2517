"""What the pods of rounds need on Kubernetes: GPUs, memory, volumes."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from selfimp_dagster.errors import SelfimpError

ROUND_POD = "SELFIMP_ROUND_POD"
"""The variable that names the file; where it is not set, runs are not pods."""


def pod_tags(file: str | None) -> Mapping[str, str]:
    """The tag by which Dagster's K8sRunLauncher shapes the pod of a round; nothing without a file.

    Raises:
        SelfimpError: the file is not there, or says something that Kubernetes or Dagster has no field for.
    """
    if file is None:
        return {}
    # Only a code location on Kubernetes has this package, and pays for its import.
    from dagster_k8s.job import USER_DEFINED_K8S_CONFIG_KEY, get_user_defined_k8s_config

    try:
        tags = {USER_DEFINED_K8S_CONFIG_KEY: json.dumps(yaml.safe_load(Path(file).read_text()))}
        get_user_defined_k8s_config(tags)
    except Exception as error:  # of the file, of YAML, of Dagster's schema and of Kubernetes' models
        raise SelfimpError(
            f"not the template of a pod: {error}",
            where=f"{ROUND_POD}={file}",
            fix="write it as deploy/kubernetes/round-pod.yaml is: the fields of the tag dagster-k8s/config",
        ) from error
    return tags
