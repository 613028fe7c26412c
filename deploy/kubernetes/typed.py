"""Holds objects of operators, of which Kubernetes has no schemas, against their types. The checks of `kubernetes` and of `helm` use it.

The types are the npm packages @kubernetes-models/argo-cd and @kubernetes-models/external-secrets, and `typescript` compares: it finds
a wrong type, and an unknown key. `npm ci --prefix deploy/kubernetes/models` installs them. KUBERNETES_MODELS names another folder
with such node_modules.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

TYPES = {
    "Application": ("IApplication", "@kubernetes-models/argo-cd/argoproj.io/v1alpha1/Application"),
    "ExternalSecret": ("IExternalSecret", "@kubernetes-models/external-secrets/external-secrets.io/v1/ExternalSecret"),
}
GROUPS = {"Application": "argoproj.io/v1alpha1", "ExternalSecret": "external-secrets.io/v1"}
FOLDER = Path(os.environ.get("KUBERNETES_MODELS", Path(__file__).parent / "models")).resolve()


def are_there():
    return all((FOLDER / "node_modules" / name).exists() for name in ("@kubernetes-models", "typescript/bin/tsc"))


def faults(manifests):
    """What is wrong with them; None where the types are not installed."""
    for manifest in manifests:
        if manifest["apiVersion"] != GROUPS[manifest["kind"]]:
            return [f"{manifest['kind']}: {manifest['apiVersion']} is not its version"]
    if not are_there():
        return None
    kinds = sorted({manifest["kind"] for manifest in manifests})
    lines = [f'import {{ {TYPES[kind][0]} }} from "{TYPES[kind][1]}";' for kind in kinds]
    # As a literal: only of one does the compiler refuse a key that is too many.
    lines += [f"export const object{number}: {TYPES[manifest['kind']][0]} = {json.dumps(manifest, indent=1)};"
              for number, manifest in enumerate(manifests)]
    with tempfile.TemporaryDirectory(dir=FOLDER) as made:
        program = Path(made) / "objects.ts"
        program.write_text("\n".join(lines))
        words = ["node", FOLDER / "node_modules/typescript/bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--ignoreConfig",
                 "--module", "nodenext", "--moduleResolution", "nodenext", "--target", "es2022", program]
        done = subprocess.run(words, capture_output=True, text=True)
    return [done.stdout + done.stderr] if done.returncode else []
