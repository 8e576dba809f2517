"""deploy/kubernetes: what Dagster's own code makes of it. What is not tried: the chart, and a cluster."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_k8s.job import (
    DagsterK8sJobConfig,
    construct_dagster_k8s_job,
    get_user_defined_k8s_config,
)
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from pages import ROOT

from selfimp_dagster.automation.round_pod import pod_tags
from selfimp_dagster.errors import SelfimpError

_FOLDER = ROOT / "deploy/kubernetes"
_POD = _FOLDER / "round-pod.yaml"
_VALUES: dict[str, Any] = yaml.safe_load((_FOLDER / "values.yaml").read_text())
(_LOCATION,) = _VALUES["dagster-user-deployments"]["deployments"]
_INSTANCE: dict[str, Any] = yaml.safe_load((ROOT / "selfimp_dagster/dagster.yaml").read_text())


def _pod_of_a_round() -> kubernetes.client.V1PodSpec:
    """The pod that Dagster's launcher makes of the template and of the volumes that the chart hands on."""
    config = DagsterK8sJobConfig(
        job_image="selfimp-dagster:0.1.0",
        dagster_home="/opt/dagster/dagster_home",
        volumes=[k8s_snake_case_dict(kubernetes.client.V1Volume, one) for one in _LOCATION["volumes"]],
        volume_mounts=[
            k8s_snake_case_dict(kubernetes.client.V1VolumeMount, one) for one in _LOCATION["volumeMounts"]
        ],
    )
    job = construct_dagster_k8s_job(
        config,
        args=["dagster", "api", "execute_run"],
        job_name="round",
        user_defined_k8s_config=get_user_defined_k8s_config(pod_tags(str(_POD))),
    )
    return job.spec.template.spec


def test_the_pod_of_a_round_has_a_gpu_memory_and_its_volumes() -> None:
    pod = _pod_of_a_round()
    (container,) = pod.containers
    assert container.resources.limits["nvidia.com/gpu"] == "1"
    assert container.resources.requests["nvidia.com/gpu"] == "1"
    mounts = {mount.name: mount.mount_path for mount in container.volume_mounts}
    assert mounts["shared-memory"] == "/dev/shm"
    volumes = {volume.name: volume for volume in pod.volumes}
    assert set(mounts) == set(volumes)
    assert volumes["shared-memory"].empty_dir.medium == "Memory"
    assert [toleration.key for toleration in pod.tolerations] == ["nvidia.com/gpu"]


def _tags_of_jobs(environment: dict[str, str]) -> list[str]:
    code = (
        "from selfimp_dagster.definitions import defs\n"
        "for name in ('round_job', 'oversight_job'):\n"
        "    print('nvidia' in str(defs.resolve_job_def(name).tags))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


def test_only_rounds_ask_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMP_ROUND_POD", str(_POD))
    assert _tags_of_jobs(dict(os.environ)) == ["True", "False"]
    assert pod_tags(None) == {}


@pytest.mark.parametrize(
    "text",
    [
        "container_config: {resource: {}}",
        "pod: {}",
        "container_config: {volume_mounts: [{name: x, path: /x}]}",
        "container_config: [",
    ],
)
def test_a_template_that_kubernetes_would_not_take_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pod.yaml").write_text(text)
    with pytest.raises(SelfimpError, match="not the template of a pod") as caught:
        pod_tags(str(tmp_path / "pod.yaml"))
    assert caught.value.where == f"SELFIMP_ROUND_POD={tmp_path / 'pod.yaml'}"


def test_the_volumes_and_the_claim_are_ones() -> None:
    for volume in _LOCATION["volumes"]:
        k8s_model_from_dict(
            kubernetes.client.V1Volume, k8s_snake_case_dict(kubernetes.client.V1Volume, volume)
        )
    claim = yaml.safe_load((_FOLDER / "home.yaml").read_text())
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    spec = k8s_snake_case_dict(kubernetes.client.V1PersistentVolumeClaimSpec, claim["spec"])
    k8s_model_from_dict(kubernetes.client.V1PersistentVolumeClaimSpec, spec)
    used = [volume["persistentVolumeClaim"]["claimName"] for volume in _LOCATION["volumes"][:1]]
    assert used == [claim["metadata"]["name"]]
    mounted = {mount["mountPath"] for mount in _LOCATION["volumeMounts"]}
    for variable in ("SELFIMP_HOME", "SELFIMP_CAMPAIGNS", "SELFIMP_ROUND_POD"):
        assert any(_LOCATION["env"][variable].startswith(path) for path in mounted)


def test_the_instance_is_that_of_one_machine() -> None:
    """But for the places in the pool and for the time that a pod may take to start."""
    more = _VALUES["additionalInstanceConfig"]
    assert validate_config(dagster_instance_config_schema(), more).success
    monitoring = {**_INSTANCE["run_monitoring"], "start_timeout_seconds": 600}
    assert more == {
        "nux": _INSTANCE["nux"],
        "run_monitoring": monitoring,
        "run_retries": _INSTANCE["run_retries"],
    }
    chart, runs = _VALUES["concurrency"], _INSTANCE["concurrency"]["runs"]
    assert chart["runs"]["maxConcurrentRuns"] == runs["max_concurrent_runs"]
    assert chart["runs"]["tagConcurrencyLimits"] == runs["tag_concurrency_limits"]
    assert chart["pools"]["granularity"] == _INSTANCE["concurrency"]["pools"]["granularity"]
