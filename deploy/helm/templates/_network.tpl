{{/* Rules of network policies: pods of this release by component, and servers outside by their port. */}}

{{- define "ifinu.peer" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: {{ include "ifinu.name" .context }}
      app.kubernetes.io/instance: {{ .context.Release.Name }}
    matchExpressions:
      - key: app.kubernetes.io/component
        operator: In
        values: {{ .components | toJson }}
{{- end }}

{{/* The port of a server outside, whose address no policy can know. */}}
{{- define "ifinu.portOf" -}}
{{- $parsed := urlParse .url -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $parsed.host) | default .default -}}
{{- end }}

{{- define "ifinu.egress.redis" -}}
{{- if .Values.redis.external.enabled }}
- ports:
    - port: {{ include "ifinu.portOf" (dict "url" .Values.redis.external.url "default" "6379") }}
{{- with .Values.redis.external.evolutionUrl }}
    - port: {{ include "ifinu.portOf" (dict "url" . "default" "6379") }}
{{- end }}
{{- else }}
- to:
    {{- include "ifinu.peer" (dict "context" . "components" (list "redis")) | nindent 4 }}
  ports:
    - port: 6379
{{- end }}
{{- end }}

{{- define "ifinu.egress.postgres" -}}
{{- if .Values.postgres.external.enabled }}
- ports:
    - port: {{ include "ifinu.portOf" (dict "url" .Values.postgres.external.url "default" "5432") }}
{{- with .Values.postgres.external.evolutionUrl }}
    - port: {{ include "ifinu.portOf" (dict "url" . "default" "5432") }}
{{- end }}
{{- else }}
- to:
    {{- include "ifinu.peer" (dict "context" . "components" (list "postgres")) | nindent 4 }}
  ports:
    - port: 5432
{{- end }}
{{- end }}

{{- define "ifinu.egress.gateway" -}}
{{- if .Values.evolution.external.enabled }}
- ports:
    - port: {{ include "ifinu.portOf" (dict "url" .Values.evolution.external.url "default" (ternary "443" "80" (hasPrefix "https" .Values.evolution.external.url))) }}
{{- with int .Values.evolution.external.targetPort }}
    - port: {{ . }}
{{- end }}
{{- else }}
- to:
    {{- include "ifinu.peer" (dict "context" . "components" (list "evolution")) | nindent 4 }}
  ports:
    - port: 8080
    - port: 8081
{{- end }}
{{- end }}

{{/* A policy of one component: `ingress` and `egress` are lists of rules as text. */}}
{{- define "ifinu.policy" -}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .app }}
  labels:
    {{- include "ifinu.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "ifinu.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- with .ingress | trim }}
  ingress:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with .egress | trim }}
  egress:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Of no peers there is no rule: one with an empty list would let everybody in. */}}
{{- define "ifinu.ingress.monitoring" -}}
{{- with .Values.networkPolicy.monitoring }}
- from:
    {{- toYaml . | nindent 4 }}
  ports:
    - port: 9464
{{- end }}
{{- end }}

{{- define "ifinu.egress.traces" -}}
{{- if .Values.tracing.enabled }}
- ports:
    - port: 4317
    - port: 4318
{{- end }}
{{- end }}

{{- define "ifinu.egress.extra" -}}
{{- with .Values.networkPolicy.extraEgress }}
{{- toYaml . }}
{{- end }}
{{- end }}
