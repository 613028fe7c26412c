{{/* The values of the sidecar as JSON, after the questions that come before all others. Takes `$`, or (list $ "ALIAS"). */}}
{{- define "careportals-sidecar.values" -}}
{{- $args := kindIs "slice" . | ternary . (list .) -}}
{{- $root := first $args -}}
{{- $section := "careportals-sidecar" -}}
{{- if gt (len $args) 1 }}{{ $section = index $args 1 }}{{ end -}}
{{- $values := index $root.Values $section -}}
{{- if not $values -}}
  {{- fail (printf "careportals-sidecar: there are no values %s: Chart.yaml has no dependency with this name or alias" $section) -}}
{{- end -}}
{{- if semverCompare "<1.29.0-0" $root.Capabilities.KubeVersion.Version -}}
  {{- fail (printf "careportals-sidecar: Kubernetes %s has no native sidecars, which came with 1.29. For such clusters there is the Kustomize component `classic` (docs/kubernetes.md)" $root.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if not $values.image.repository -}}
  {{- fail (printf "careportals-sidecar: set %s.image.repository to where you pushed your image of the sidecar" $section) -}}
{{- end -}}
{{- toJson $values -}}
{{- end -}}

{{/* Refuses limits that do not fit into the memory: the formula of deploy/memory.py, in KiB. A settings file has limits of its own. */}}
{{- define "careportals-sidecar.mustFit" -}}
{{- $limit := .resources.limits.memory | trimSuffix "Mi" | int64 -}}
{{- $requested := .resources.requests.memory | trimSuffix "Mi" | int64 -}}
{{- if not .configMap -}}
  {{- $idle := max 0 (sub (mul 2 (int64 .maxConnections)) (int64 .maxRequests)) -}}
  {{- $most := add 16384 (mul 1200 (int64 .maxRequests)) (mul 760 $idle) -}}
  {{- if gt (mul 3 $most) (mul 2048 $limit) -}}
    {{- fail (printf "careportals-sidecar: with maxRequests %d and maxConnections %d it may need %d MiB, which is more than two thirds of resources.limits.memory, %s" (int64 .maxRequests) (int64 .maxConnections) (div $most 1024) .resources.limits.memory) -}}
  {{- end -}}
{{- end -}}
{{- if or (lt (mul 1024 $requested) 25984) (gt $requested $limit) -}}
  {{- fail (printf "careportals-sidecar: resources.requests.memory is %s. An ordinary app takes 26Mi, and the limit is %s" .resources.requests.memory .resources.limits.memory) -}}
{{- end -}}
{{- end -}}

{{/* Refuses variables that are none of the sidecar's, that other values set, or that would put a credential into the values. */}}
{{- define "careportals-sidecar.mustBeSettings" -}}
{{- range $name, $value := .env -}}
  {{- $plain := not (kindIs "map" $value) -}}
  {{- if not (regexMatch "^(CAREPORTALS_[A-Z0-9_]+|HTTPS_PROXY|NO_PROXY|https_proxy|no_proxy)$" $name) -}}
    {{- fail (printf "careportals-sidecar: env.%s is no variable of docs/settings.md" $name) -}}
  {{- end -}}
  {{- if regexMatch "^CAREPORTALS_(ORGANIZATION|USERNAME|PASSWORD)(_FILE)?$|__(USERNAME|PASSWORD)$" $name -}}
    {{- fail (printf "careportals-sidecar: env.%s: credentials stand in a Secret, which `secret` names, and never in values" $name) -}}
  {{- end -}}
  {{- if and $plain (regexMatch "^(https_proxy|HTTPS_PROXY)$" $name) (contains "@" (toString $value)) -}}
    {{- fail (printf "careportals-sidecar: env.%s has credentials. Put the URL into a Secret: { secret: NAME, key: KEY }" $name) -}}
  {{- end -}}
  {{- if regexMatch "^CAREPORTALS_(CREDENTIALS_DIR|API|CONTROL_SOCKET|LISTEN|CONFIG|_APIS__DEFAULT__MAX_(REQUESTS|CONNECTIONS))$" $name -}}
    {{- fail (printf "careportals-sidecar: env.%s is set by the chart. See `secret`, `api`, `maxRequests`, `maxConnections` and `configMap`" $name) -}}
  {{- end -}}
  {{- if or (and $.ca.configMap (eq $name "CAREPORTALS_CA_FILE")) (and $.podMonitor.enabled (eq $name "CAREPORTALS_TELEMETRY_LISTEN")) -}}
    {{- fail (printf "careportals-sidecar: env.%s is set by `ca` or `podMonitor`, too" $name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
