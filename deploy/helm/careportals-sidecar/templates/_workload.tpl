{{/*
Adds the sidecar to a workload: a Deployment, StatefulSet, DaemonSet, Job or CronJob. The workload is a named template of your chart:

  {{- define "app.deployment" }}
  apiVersion: apps/v1
  kind: Deployment
  …
  {{- end }}
  {{- include "careportals-sidecar.workload" (list $ "app.deployment") }}

A third word names other values than `careportals-sidecar`: the alias of a second dependency on this chart. For a workload whose template
takes something else than `$`, `careportals-sidecar.manifest` takes its text: (list $ (include "app.worker" …)). The result is that of the
Kustomize component, and one label more, by which the objects of `careportals-sidecar.resources` know the pods of this release.
*/}}
{{- define "careportals-sidecar.workload" -}}
{{- if or (not (kindIs "slice" .)) (lt (len .) 2) -}}
  {{- fail "careportals-sidecar.workload takes a list: (list $ \"the name of your template\")" -}}
{{- end -}}
{{- $root := index . 0 -}}
{{- $text := include (index . 1) $root -}}
{{- include "careportals-sidecar.manifest" (concat (list $root $text) (slice . 2)) -}}
{{- end -}}

{{- define "careportals-sidecar.manifest" -}}
{{- $root := index . 0 -}}
{{- $args := list $root -}}
{{- if gt (len .) 2 }}{{ $args = list $root (index . 2) }}{{ end -}}
{{- $text := index . 1 | trim | trimPrefix "---" | trim -}}
{{- if $text -}}
  {{- if regexMatch "(?m)^---(\\s|$)" $text -}}
    {{- fail "careportals-sidecar: the template has several documents. Leave one workload in it" -}}
  {{- end -}}
  {{- $workload := fromYaml $text -}}
  {{- if hasKey $workload "Error" -}}
    {{- fail (printf "careportals-sidecar: the template is no YAML: %v" $workload.Error) -}}
  {{- end -}}
  {{- $what := printf "%v %v" $workload.kind (dig "metadata" "name" "without a name" $workload) -}}
  {{- if not (has $workload.kind (list "Deployment" "StatefulSet" "DaemonSet" "Job" "CronJob")) -}}
    {{- fail (printf "careportals-sidecar: %s: the sidecar is for a Deployment, StatefulSet, DaemonSet, Job or CronJob" $what) -}}
  {{- end -}}
  {{- $owner := $workload.spec -}}
  {{- if eq $workload.kind "CronJob" }}{{ $owner = dig "jobTemplate" "spec" dict ($workload.spec | default dict) }}{{ end -}}
  {{- if not (dig "template" "spec" "containers" nil ($owner | default dict)) -}}
    {{- fail (printf "careportals-sidecar: %s has no pod template with containers" $what) -}}
  {{- end -}}
  {{- $labels := include "careportals-sidecar.podLabels" $args | fromYaml -}}
  {{- $_ := set $workload.metadata "labels" (merge (dict "careportals-sidecar" "true") ($workload.metadata.labels | default dict)) -}}
  {{- if not $owner.template.metadata }}{{ $_ := set $owner.template "metadata" dict }}{{ end -}}
  {{- $_ := set $owner.template.metadata "labels" (merge $labels ($owner.template.metadata.labels | default dict)) -}}
  {{- include "careportals-sidecar.addToPod" (list $owner.template.spec $args $what) -}}
  {{- toYaml $workload -}}
{{- end -}}
{{- end -}}

{{/* Changes the spec of a pod in place, and writes nothing. */}}
{{- define "careportals-sidecar.addToPod" -}}
{{- $pod := index . 0 -}}
{{- $args := index . 1 -}}
{{- $what := index . 2 -}}
{{- if $pod.hostNetwork -}}
  {{- fail (printf "careportals-sidecar: %s has hostNetwork: every process of the node could use the account" $what) -}}
{{- end -}}
{{- range concat ($pod.initContainers | default list) $pod.containers -}}
  {{- if eq .name "careportals-sidecar" }}{{ fail (printf "careportals-sidecar: %s has a container of this name already" $what) }}{{ end -}}
{{- end -}}
{{- $volumes := include "careportals-sidecar.volumes" $args | fromYamlArray -}}
{{- range $volume := $volumes -}}
  {{- range $pod.volumes -}}
    {{- if eq .name $volume.name }}{{ fail (printf "careportals-sidecar: %s has a volume %s already" $what .name) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- $env := include "careportals-sidecar.env" $args | fromYamlArray -}}
{{- range $container := $pod.containers -}}
  {{- $own := list -}}
  {{- range $container.env -}}
    {{- if ne .name "CAREPORTALS_BASE_URL" -}}
      {{- $own = append $own . -}}
    {{- else if ne (.value | default "") (first $env).value -}}
      {{- fail (printf "careportals-sidecar: %s: container %s has a CAREPORTALS_BASE_URL of its own. Remove it" $what $container.name) -}}
    {{- end -}}
  {{- end -}}
  {{- $_ := set $container "env" (concat $own $env) -}}
{{- end -}}
{{- $sidecar := include "careportals-sidecar.container" $args | fromYaml -}}
{{- $_ := set $pod "initContainers" (prepend ($pod.initContainers | default list) $sidecar) -}}
{{- $_ := set $pod "volumes" (concat ($pod.volumes | default list) $volumes) -}}
{{- end -}}
