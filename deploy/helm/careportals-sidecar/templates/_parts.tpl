{{/*
The parts of the sidecar, for a workload whose template you would rather not wrap. Each takes `$`, or (list $ "ALIAS").

  careportals-sidecar.podLabels   a map, for the pod's labels
  careportals-sidecar.container   one container, to be the first of initContainers
  careportals-sidecar.env         a list of one variable, for each container that calls
  careportals-sidecar.volumes     a list, for the pod's volumes
*/}}
{{- define "careportals-sidecar.podLabels" -}}
careportals-sidecar: "true"
careportals-sidecar-release: {{ include "careportals-sidecar.owner" . | quote }}
{{- end -}}

{{/* The release, and the alias behind it. */}}
{{- define "careportals-sidecar.owner" -}}
{{- $args := kindIs "slice" . | ternary . (list .) -}}
{{- $name := (first $args).Release.Name -}}
{{- if gt (len $args) 1 }}{{ $name = printf "%s-%s" $name (index $args 1) }}{{ end -}}
{{- $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "careportals-sidecar.env" -}}
- name: CAREPORTALS_BASE_URL
  value: http://127.0.0.1:2273
{{- end -}}

{{- define "careportals-sidecar.volumes" -}}
{{- $values := include "careportals-sidecar.values" . | fromJson -}}
- name: careportals-credentials
  secret:
    secretName: {{ $values.secret | quote }}
    # For root and its group, which is the sidecar's. No other container mounts the volume.
    defaultMode: 0440
# Holds one socket, which the app does not see.
- name: careportals-control
  emptyDir: { medium: Memory, sizeLimit: 1Mi }
{{- range $number, $name := $values.moreSecrets }}
- name: careportals-secret-{{ $number }}
  secret: { secretName: {{ $name | quote }}, defaultMode: 0440 }
{{- end }}
{{- with $values.configMap }}
- name: careportals-config
  configMap: { name: {{ . | quote }}, defaultMode: 0444 }
{{- end }}
{{- with $values.ca.configMap }}
- name: careportals-ca
  configMap: { name: {{ . | quote }}, defaultMode: 0444 }
{{- end }}
{{- end -}}

{{- define "careportals-sidecar.container" -}}
{{- $values := include "careportals-sidecar.values" . | fromJson -}}
{{- include "careportals-sidecar.mustFit" $values -}}
{{- include "careportals-sidecar.mustBeSettings" $values -}}
# A native sidecar: it is up before the app starts, and stops after the app has ended.
name: careportals-sidecar
image: {{ $values.image.repository }}{{ if $values.image.digest }}@{{ $values.image.digest }}{{ else }}:{{ $values.image.tag }}{{ end }}
{{- with $values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
restartPolicy: Always
env:
  {{- if not $values.configMap }}
  - { name: CAREPORTALS_CREDENTIALS_DIR, value: /run/secrets/careportals }
  - { name: CAREPORTALS_API, value: {{ $values.api }} }
  - { name: CAREPORTALS__APIS__DEFAULT__MAX_REQUESTS, value: "{{ int64 $values.maxRequests }}" }
  - { name: CAREPORTALS__APIS__DEFAULT__MAX_CONNECTIONS, value: "{{ int64 $values.maxConnections }}" }
  {{- end }}
  # For `status`, `login` and `reload` by `kubectl exec`.
  - { name: CAREPORTALS_CONTROL_SOCKET, value: /run/careportals-sidecar/control.sock }
  {{- if $values.ca.configMap }}
  - { name: CAREPORTALS_CA_FILE, value: /etc/careportals-ca/{{ $values.ca.key }} }
  {{- end }}
  {{- if $values.podMonitor.enabled }}
  - { name: CAREPORTALS_TELEMETRY_LISTEN, value: {{ $values.podMonitor.listen | quote }} }
  {{- end }}
  {{- range $name, $value := $values.env }}
  - name: {{ $name }}
    {{- if kindIs "map" $value }}
    valueFrom: { secretKeyRef: { name: {{ $value.secret | quote }}, key: {{ $value.key | quote }} } }
    {{- else }}
    # Helm reads numbers as floats, and would write large ones as 1e+06.
    value: {{ (kindIs "float64" $value | ternary (int64 (kindIs "float64" $value | ternary $value 0)) $value) | toString | quote }}
    {{- end }}
  {{- end }}
{{- if $values.podMonitor.enabled }}
ports: [{ name: telemetry, containerPort: 2274, protocol: TCP }]
{{- end }}
volumeMounts:
  # The whole directory, since the kubelet renews it by swapping one symlink in it.
  - { name: careportals-credentials, mountPath: /run/secrets/careportals, readOnly: true }
  - { name: careportals-control, mountPath: /run/careportals-sidecar }
  {{- range $number, $name := $values.moreSecrets }}
  - { name: careportals-secret-{{ $number }}, mountPath: /run/secrets/{{ $name }}, readOnly: true }
  {{- end }}
  {{- if $values.configMap }}
  - { name: careportals-config, mountPath: /etc/careportals-sidecar, readOnly: true }
  {{- end }}
  {{- if $values.ca.configMap }}
  - { name: careportals-ca, mountPath: /etc/careportals-ca, readOnly: true }
  {{- end }}
# By `exec`, since the sidecar listens on loopback only, which the kubelet's HTTP probes do not reach.
startupProbe:
  exec: { command: [/usr/bin/careportals-sidecar, healthcheck, --started] }
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  exec: { command: [/usr/bin/careportals-sidecar, healthcheck, --live] }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- if $values.readinessProbe }}
readinessProbe:
  exec: { command: [/usr/bin/careportals-sidecar, healthcheck, --ready] }
  timeoutSeconds: 5
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
# All of what "restricted" asks stands here and nothing in the pod's own part, which is the app's.
securityContext:
  runAsNonRoot: true
  {{- if not $values.openshift }}
  runAsUser: 65532
  # The kubelet gives a Secret's files to root's group, and their mode lets nobody else read them.
  runAsGroup: 0
  {{- end }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
{{- end -}}
