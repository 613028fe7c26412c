{{/*
The objects around the workloads that the values ask for: a NetworkPolicy, a PodMonitor, an ExternalSecret. Without any it writes
nothing. For a file of its own in your chart's templates: {{ include "careportals-sidecar.resources" $ }}
*/}}
{{- define "careportals-sidecar.resources" -}}
{{- $values := include "careportals-sidecar.values" . | fromJson -}}
{{- $name := printf "%s-careportals-sidecar" (include "careportals-sidecar.owner" .) -}}
{{- $pods := include "careportals-sidecar.podLabels" . | fromYaml -}}
{{- if $values.networkPolicy.enabled }}
---
# A policy holds for the pod as a whole, your app included: with this one it can reach names and CarePortals, and nobody can reach
# it but Prometheus. What it needs besides, allow by a policy of your own: they add up. deploy/kubernetes/network-policy has the reasons.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
spec:
  podSelector: { matchLabels: {{ toJson $pods }} }
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: monitoring } } }]
      ports: [{ protocol: TCP, port: 2274 }]
  egress:
    - to:
        - ipBlock:
            cidr: 0.0.0.0/0
            except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
        - ipBlock:
            cidr: "2000::/3"
            {{- with $values.networkPolicy.exceptIPv6 }}
            except: {{ toJson . }}
            {{- end }}
        - ipBlock:
            cidr: "64:ff9b::/96"
            except: ["64:ff9b::a00:0/104", "64:ff9b::6440:0/106", "64:ff9b::a9fe:0/112", "64:ff9b::ac10:0/108", "64:ff9b::c0a8:0/112"]
      ports: [{ protocol: TCP, port: 443 }]
    - to:
        - namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: kube-system } }
          podSelector: { matchExpressions: [{ key: k8s-app, operator: In, values: [kube-dns, node-local-dns] }] }
        - ipBlock: { cidr: 169.254.20.10/32 }
      ports: [{ protocol: UDP, port: 53 }, { protocol: TCP, port: 53 }]
    - to:
        - namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: openshift-dns } }
          podSelector: { matchLabels: { dns.operator.openshift.io/daemonset-dns: default } }
      ports: [{ protocol: UDP, port: 5353 }, { protocol: TCP, port: 5353 }]
{{- end }}
{{- if $values.podMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ $name }}
  labels: {{ toJson ($values.podMonitor.labels | default dict) }}
spec:
  selector: { matchLabels: {{ toJson $pods }} }
  podMetricsEndpoints:
    - port: telemetry
      path: /metrics
      interval: 15s
      relabelings:
        # The name that the rules in deploy/prometheus look for.
        - { targetLabel: job, replacement: careportals-sidecar }
{{- end }}
{{- if $values.externalSecret.store }}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: {{ $values.secret | quote }}
spec:
  refreshInterval: {{ $values.externalSecret.refreshInterval }}
  secretStoreRef: { kind: {{ $values.externalSecret.kind }}, name: {{ $values.externalSecret.store | quote }} }
  target: { name: {{ $values.secret | quote }} }
  data:
    {{- range list "organization" "username" "password" }}
    - secretKey: {{ . }}
      remoteRef: { key: {{ $values.externalSecret.key | quote }}, property: {{ . }} }
    {{- end }}
{{- end }}
{{- end -}}
