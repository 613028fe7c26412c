"""Renders charts that use the library beside this file, for `check` and for deploy/kubernetes/play.

A chart is copied to a temporary folder, gets its dependencies there, and is rendered. So the checkout stays as it is, and Helm's own
folders of the user are neither read nor written.
"""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
HELM = os.environ.get("HELM", "helm")
LIBRARY = "careportals-sidecar"


def is_there():
    return shutil.which(HELM) is not None


@contextmanager
def workspace():
    """A folder with the library and the example in it; gives it and a function that runs Helm there."""
    with tempfile.TemporaryDirectory(prefix="careportals-helm-") as made:
        folder = Path(made).resolve()
        for chart in (LIBRARY, "example"):
            shutil.copytree(HERE / chart, folder / chart, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        homes = {f"HELM_{name}_HOME": str(folder / "home" / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        environment = {name: value for name, value in os.environ.items() if name != "HELM_PLUGINS"} | homes

        def helm(*words, program=HELM, given=""):
            words = [program, *map(str, words)]
            return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, input=given)

        yield folder, helm


def with_dependencies(helm, chart):
    done = helm("dependency", "update", chart)
    if done.returncode:
        raise SystemExit(f"FAIL: helm dependency update {chart}: {done.stdout}{done.stderr}")
    return chart


def rendered_example(*words):
    """The manifests of the example, as text."""
    with workspace() as (_, helm):
        done = helm("template", "app", with_dependencies(helm, "example"), *words)
    if done.returncode:
        raise SystemExit(f"FAIL: helm template: {done.stderr}")
    return done.stdout
